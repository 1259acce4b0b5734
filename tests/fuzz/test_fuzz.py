"""No input makes anything but a result or one clear message; ``scripts/fuzz.py`` runs the same for hours."""

from __future__ import annotations

from typing import Any

import pytest
from fuzz_guard import guarded
from fuzz_targets import TARGETS, Target, Workshop
from hypothesis import HealthCheck, Phase, given, settings


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("target", TARGETS, ids=[t.name for t in TARGETS])
def test_no_input_is_a_traceback(target: Target, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(
        max_examples=target.tests,
        derandomize=True,
        database=None,
        deadline=None,  # CPU time is watched by the guard
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # shrinking is for scripts/fuzz.py
    )
    @given(target.inputs())
    def check(example: Any) -> None:
        monkeypatch.chdir(shop.empty())
        guarded(lambda: target.run(example, shop), shop.folder)

    check()
