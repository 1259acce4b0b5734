"""Fixtures of the fitness tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fitness_support import (
    BINARY,
    CHOICE,
    CUSTOM,
    CUSTOM_PY,
    GENERATE,
    GROUP,
    LIKELIHOOD,
    ROLLING,
    SAMPLED,
    documents,
    make_model,
    make_tokenizer,
    write_jsonl,
)


@pytest.fixture(scope="session", autouse=True)
def _own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def tasks_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    definitions = {
        "choice": CHOICE,
        "binary": BINARY,
        "generate": GENERATE,
        "likelihood": LIKELIHOOD,
        "rolling": ROLLING,
        "sampled": SAMPLED,
        "custom": CUSTOM,
        "group": GROUP,
    }
    for name, text in definitions.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "custom.py").write_text(CUSTOM_PY, encoding="utf-8")
    write_jsonl(folder / "choice.jsonl", documents("choice"))
    binary = [{"question": row["question"], "answer": row["answer"] % 2} for row in documents("choice")]
    write_jsonl(folder / "binary.jsonl", binary)
    write_jsonl(folder / "fewshot.jsonl", documents("choice", 12, seed=2))
    write_jsonl(folder / "text.jsonl", documents("text"))
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture
def model() -> Any:
    return make_model(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
