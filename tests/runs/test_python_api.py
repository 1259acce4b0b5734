"""The Python API: the script of its documentation, and what it promises beyond the commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT, changed, environment
from support import ROOT

from evomerge import Experiment, Observer, Run, UserError, open_study
from evomerge.fitness.scores import Split
from evomerge.search.progress import Progress
from evomerge.search.results import Ending
from evomerge.study.study import Study, Trial


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path)


def make_run(folder: Path, document: dict[str, Any] = EXPERIMENT, **overrides: Any) -> Run:
    path = folder / "small.yml"
    path.write_text(yaml.safe_dump(document))
    return Run(Experiment.load(path, overrides))


class Diary(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_start(self, study: Study) -> None:
        self.said.append("resumed" if study.resumed else "started")

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
        self.said.append(f"generation {progress.generation}")

    def on_end(self, result: object) -> None:
        self.said.append("ended")


class Broken(Observer):
    def on_trial(self, trial: Trial, progress: Progress) -> None:
        raise RuntimeError("the logger's server is away")


def test_the_script_of_the_documentation_runs(tmp_path: Path) -> None:
    script = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert script is not None
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    told = subprocess.run(
        [sys.executable, "-c", script[1]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "dimensions" in told.stdout
    assert "generation 0: best" in told.stdout
    assert (tmp_path / "runs" / "python" / "best.yml").is_file()


def test_a_check_writes_nothing(run: Run, tmp_path: Path) -> None:
    checked = run.check()
    assert [t.task for t in checked.tasks] == ["zoo_add", "zoo_sort"]
    assert [d.name for d in checked.dimensions] == [d.name for d in run.experiment.space.dimensions]
    assert checked.memory.live_model > 0
    assert [p.name for p in tmp_path.iterdir()] == ["small.yml"]


def test_a_search_that_is_stopped_goes_on_to_the_study_of_one_that_was_not(run: Run, tmp_path: Path) -> None:
    first, second, calls = Diary(), Diary(), []
    stopped = run.search(observers=[first, second], should_stop=lambda: len(calls) > 9 or calls.append(1))  # type: ignore[func-returns-value]
    assert stopped.ending is Ending.STOPPED
    assert first.said == second.said
    assert first.said[0] == "started"
    again = Diary()
    found = run.search(observers=[again])
    assert found.ending is Ending.BUDGET
    assert again.said[0] == "resumed"
    assert again.said[-1] == "ended"
    (tmp_path / "other").mkdir()
    whole = make_run(tmp_path / "other", **{"output.dir": str(tmp_path / "whole")})
    expected = whole.search()
    assert [(r.name, r.search, r.validation, r.test) for r in found.leaderboard] == [
        (r.name, r.search, r.validation, r.test) for r in expected.leaderboard
    ]
    with run.study() as mine, whole.study() as other:
        left, right = (s.to_dataframe().drop(columns=["materialize_s", "evaluate_s"]) for s in (mine, other))
        assert left.equals(right)


def test_an_observer_that_fails_is_dropped_and_the_others_see_the_end(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    diary = Diary()
    found = run.search(observers=[Broken(), diary])
    assert found.ending is Ending.BUDGET
    assert diary.said[-1] == "ended"
    assert [r.message for r in caplog.records if "Broken" in r.message] == [
        "the observer Broken failed and is not called again"
    ]


def test_a_data_frame_holds_every_trial_with_its_values_and_scores(run: Run) -> None:
    found = run.search()
    with open_study("runs/small") as study:
        frame = study.to_dataframe().set_index("name")
        trials = {t.name: t for t in study.study.trials()}
        assert list(frame.index) == list(trials)
        for name, trial in trials.items():
            assert frame.loc[name, "search"] == trial.score
            for key, value in trial.parameters.items():
                assert frame.loc[name, f"param/{key}"] == value
        assert found.winner is not None
        assert frame.loc[found.winner.name, "test"] == study.score(found.winner, Split.TEST)
        assert frame["task/zoo_add"].notna().all()


def test_an_export_is_what_the_command_writes(run: Run, tmp_path: Path) -> None:
    found = run.search()
    exported = run.export(tmp_path / "best.yml")
    assert found.winner is not None
    assert (exported.name, exported.fingerprint) == (found.winner.name, found.winner.fingerprint)
    assert (tmp_path / "best.yml").read_text() == exported.text
    assert json.loads(json.dumps(dict(exported.values))) == exported.values
    with pytest.raises(UserError, match="no export wrote it"):
        run.export(tmp_path / "small.yml")


def test_an_experiment_that_does_not_fit_is_one_message(tmp_path: Path) -> None:
    run = make_run(tmp_path, changed("fitness.tasks", ["no_such_task"]))
    with pytest.raises(UserError, match="no_such_task"):
        run.check()
