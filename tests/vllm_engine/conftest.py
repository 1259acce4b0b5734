"""What tests of the vLLM engine share; where vLLM is not installed, all of them are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_support import ENGINE_ARGS
from wide_zoo import wide_zoo

from evomerge.backends.registry import resident_model
from evomerge.backends.resident import ModelSettings, ResidentModel
from evomerge.backends.vllm_settings import vllm_is_installed

Engine = Callable[..., ResidentModel]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            if not vllm_is_installed():
                item.add_marker(
                    pytest.mark.skip(reason="vLLM is not installed; scripts/test-vllm installs it")
                )


@pytest.fixture(scope="session")
def zoo() -> Path:
    return wide_zoo()


@pytest.fixture(scope="session")
def engines() -> Iterator[dict[Any, ResidentModel]]:
    kept: dict[Any, ResidentModel] = {}
    yield kept
    for model in kept.values():
        model.close()


@pytest.fixture
def engine(zoo: Path, engines: dict[Any, ResidentModel]) -> Engine:
    """The vLLM model over named folders; the same one in all tests for the same arguments."""

    def engine(dtype: str | None = "float32", **models: str) -> ResidentModel:
        named = models or {name: str(zoo / name) for name in ("base", "add", "sort")}
        key = (dtype, tuple(named.items()))
        if key not in engines:
            settings = ModelSettings(tuple(named.items()), Path(), "cpu", dtype, 1, ENGINE_ARGS)
            engines[key] = resident_model("vllm", settings)
        return engines[key]

    return engine
