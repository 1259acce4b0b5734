"""Real candidates that are a baseline to the bit: what is reused is what scoring would have given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT

from evomerge import Experiment, Run
from evomerge.backends.transformers_model import TransformersModel

RECIPE = {
    "merge_method": "linear",
    "models": [{"model": name, "parameters": {"weight": {"int": [0, 1]}}} for name in ("add", "sort")],
    "dtype": "bfloat16",
}


def searched(folder: Path, **recipe: Any) -> tuple[str, dict[str, tuple[str | None, float | None]]]:
    """The digest of the study, and of each candidate which baseline it is, and its score."""
    document = json.loads(json.dumps(EXPERIMENT))
    document["recipe"] = {**RECIPE, **recipe}
    document["models"] = {name: document["models"][name] for name in ("add", "sort")}
    document["fitness"]["splits"] = {"search": 12, "validation": 4, "test": 4}
    document["output"] = {"dir": str(folder / "run")}
    folder.mkdir()
    (folder / "mine.yml").write_text(yaml.safe_dump(document))
    run = Run(Experiment.load(folder / "mine.yml"))
    run.search()
    with run.study() as opened:
        trials = {t.name: (t.same_weights_as, t.score) for t in opened.study.trials()}
        return opened.study.digest(), trials


def test_a_reused_score_is_the_one_that_scoring_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, trials = searched(tmp_path / "reused")
    found = {same for same, _ in trials.values() if same}
    assert found == {"add", "uniform"}
    monkeypatch.setattr(TransformersModel, "config_digest", None)
    again, scored = searched(tmp_path / "scored")
    assert digest == again
    assert {same for same, _ in scored.values()} == {None}
    assert [score for _, score in scored.values()] == [score for _, score in trials.values()]


def test_an_expert_is_another_model_where_the_merge_has_a_chat_template(tmp_path: Path) -> None:
    _, trials = searched(tmp_path / "chat", chat_template="chatml")
    assert {same for same, _ in trials.values() if same} == {"uniform"}
