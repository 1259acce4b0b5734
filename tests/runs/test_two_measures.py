"""Searches by the answer likelihood, with the models of experiments/zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import changed
from killing import search_until_killed
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.fitness.scores import Split
from evomerge.runs.experiment import Experiment, read_document
from evomerge.runs.run import Run
from evomerge.search.observers import Observer
from evomerge.search.progress import Phase, Progress
from evomerge.study.study import SplitResult, Trial

BOTH = [{"task": name, "measure": "answer_likelihood"} for name in ("zoo_add", "zoo_sort")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Killed(BaseException):
    """Stands in for SIGKILL."""


class KillAtThirdMetric(Observer):
    def __init__(self) -> None:
        self.left = 3

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
        assert (progress.phase, split) == (Phase.METRICS, Split.SEARCH)
        self.left -= 1
        if not self.left:
            raise Killed


def experiment(folder: Path, tasks: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "experiment.yml"
    file.write_text(yaml.safe_dump(changed("fitness.tasks", tasks)))
    return file


def test_candidates_are_scored_by_it_and_everything_else_by_the_metric(here: Path) -> None:
    file = experiment(here, BOTH)
    run = Run(Experiment.load(file))
    found = run.search()
    with run.study() as opened:
        study = opened.study
        trials = study.trials()
        assert {t.basis.measure for t in trials} == {"answer_likelihood"}
        assert {s.metric for t in trials for s in t.scores.tasks} == {"answer_likelihood"}
        assert all(t.score < 0 for t in trials)
        best = sorted(study.candidates(), key=lambda t: -t.score)[:2]
        both = [*study.baselines(), *best]
        assert list(study.metric_results()) == sorted(t.number for t in both)
        metrics = {r.scores.split for r in study.metric_results().values()}
        assert metrics == {Split.SEARCH}
        for split in (Split.VALIDATION, Split.TEST):
            names = {s.metric for scores in study.split_scores(split).values() for s in scores.tasks}
            assert names == {"exact_match", "acc"}
        assert study.snapshot()["metric"].keys() == {t.name for t in both}
        agreed = opened.agreement()
        frame = opened.to_dataframe()
    assert agreed == found.agreement
    assert agreed is not None
    assert (agreed.baselines, agreed.candidates) == (len(study.baselines()), 2)
    assert agreed.tau is not None
    assert agreed.tau > 0.3
    assert frame["search_metric"].notna().sum() == len(both)
    plain = Run(Experiment.load(file, {"fitness.tasks": ["zoo_add", "zoo_sort"], "name": "plain"}))
    plain.search()
    with plain.study() as opened:
        expected = {t.name: t.score for t in opened.study.baselines()}
        assert opened.agreement() is None
        assert "metric" not in opened.study.snapshot()
    rows = {row.name: row for row in found.leaderboard}
    assert {name: rows[name].search_metric for name in expected} == expected
    assert all(row.search is not None and row.search < 0 for row in rows.values())
    assert {t.metric for row in rows.values() for t in row.tasks} == {"exact_match", "acc"}

    shown = CliRunner().invoke(app, ["status", str(file)]).output
    text = " ".join(shown.split())
    assert f"answer_likelihood against the metrics on search items: Kendall's tau {agreed.tau:.2f}" in text
    assert "8 models (6 baselines, 2 finalists)" in text
    assert "likel. search valid. test" in text
    document = json.loads(CliRunner().invoke(app, ["status", str(file), "--json"]).stdout)
    assert document["agreement"]["tau"] == agreed.tau
    assert document["agreement"]["warning"] is None
    assert document["leaderboard"][0]["search_metric"] == expected["base"]
    markdown = CliRunner().invoke(app, ["status", str(file), "--markdown"]).stdout
    assert markdown.startswith("| model | answer_likelihood | search | validation | test |")


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_study(here: Path) -> None:
    def digest_of(file: Path, **overrides: Any) -> str:
        run = Run(Experiment.load(file, overrides))
        run.search()
        with run.study() as opened:
            return opened.study.digest()

    undisturbed = digest_of(experiment(here / "a", BOTH))
    file = experiment(here / "b", BOTH)
    folder = file.parent / "runs" / "small"
    search_until_killed(file, folder / "study.db", trials=9)
    with pytest.raises(Killed):  # between two results by the metrics
        Run(Experiment.load(file, {"output.dir": str(folder)})).search(observers=[KillAtThirdMetric()])
    assert digest_of(file, **{"output.dir": str(folder)}) == undisturbed


def test_mixed_measures_are_warned_of_and_check_says_what_the_search_goes_by(here: Path) -> None:
    file = experiment(here, [*BOTH, {"task": "zoo_reverse", "weight": 2}, {"task": "zoo_drift", "weight": 0}])
    shown = CliRunner().invoke(app, ["check", str(file)])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert (
        "no common scale: answer_likelihood of texts (zoo_add), answer_likelihood of choices (zoo_sort), "
        "metrics (zoo_reverse); choose weights" in text
    )
    assert "zoo_add: the search goes by its answer_likelihood, validation and test by its metric" in text
    alike = CliRunner().invoke(app, ["check", str(experiment(here, BOTH[:1]))])
    assert "common scale" not in alike.output


def test_a_task_that_has_no_reference_answer_is_refused_before_the_search(here: Path) -> None:
    file = experiment(here, [*BOTH, {"task": "zoo_drift", "measure": "answer_likelihood"}])
    for command in ("check", "search"):
        refused = CliRunner().invoke(app, [command, str(file)])
        told = str(refused.exception)
        assert "fitness.tasks: zoo_drift: measure: its metric is a log-likelihood already" in told
    assert not (here / "runs").exists()


def test_studies_from_before_the_measure_searched_by_the_metric(here: Path) -> None:
    document = Experiment.load(experiment(here, ["zoo_add"])).document({})
    before = json.loads(json.dumps(document))
    for field in ("measure", "python", "name"):
        del before["fitness"]["tasks"][0][field]
    assert read_document(before) == document
