"""Searches over Python tasks, with the models of experiments/zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import changed
from killing import search_until_killed

from evomerge.errors import ExperimentError, UserError
from evomerge.runs.experiment import Experiment, read_document
from evomerge.runs.run import Run

DIGITS = {"python": "examples/digits.py:RightDigits"}
PICKY = """
class Picky:
    def items(self):
        return [{"a": a} for a in range(10, 70)]

    def score(self, lm, items):
        found = [v for v, _ in lm.loglikelihood([(f"A{i['a']}+11=", str(i['a'] + 11)) for i in items])]
        if sum(found) / len(found) > -0.3:
            raise ValueError("too good to be true")
        return found
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(folder: Path, *tasks: Any, **sections: Any) -> Path:
    document = {**changed("fitness.tasks", list(tasks)), **sections}
    folder.mkdir(exist_ok=True)
    file = folder / "experiment.yml"
    file.write_text(yaml.safe_dump(document))
    return file


def digest_of(file: Path, **overrides: Any) -> str:
    """The digest of the finished search."""
    run = Run(Experiment.load(file, overrides))
    run.search()
    with run.study() as opened:
        return opened.study.digest()


@pytest.mark.slow
def test_a_search_over_the_example_is_the_same_after_a_kill(here: Path) -> None:
    tasks = ("zoo_sort", DIGITS, {"python": "examples/digits.py:Preference", "weight": 0.1})
    undisturbed = digest_of(experiment(here / "a", *tasks))
    file = experiment(here / "b", *tasks)
    search_until_killed(file, file.parent / "runs" / "small" / "study.db", trials=8)
    assert digest_of(file, **{"output.dir": str(file.parent / "runs" / "small")}) == undisturbed


@pytest.mark.slow
def test_ray_workers_find_the_file_and_the_same_study(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "picky.py").write_text(PICKY)
    task = {"python": "./picky.py:Picky"}
    inline = experiment(here / "mine", task)
    expected = digest_of(inline)
    several = {"workers.backend": "ray", "workers.count": 2, "output.dir": "runs/several"}
    assert digest_of(inline, **several) == expected


def test_an_error_of_the_class_fails_the_candidate_and_the_search_goes_on(here: Path) -> None:
    (here / "picky.py").write_text(PICKY)
    run = Run(Experiment.load(experiment(here, {"python": "picky.py:Picky", "name": "judge"})))
    found = run.search()
    with run.study() as opened:
        trials = opened.study.trials()
        failed = [t for t in trials if t.failure is not None]
        document = read_document(opened.study.document)
    assert found.winner is not None
    assert 0 < len(failed) < len(trials) == 14
    told = "task 'judge': picky.py:Picky.score() raised (picky.py, line 9: ValueError: too good to be true)"
    assert {t.failure.reason for t in failed} == {told}
    assert document["fitness"]["tasks"][0]["python"] == "picky.py:Picky"  # as written: folders may move


def test_a_file_that_has_changed_is_another_task(here: Path) -> None:
    (here / "picky.py").write_text(PICKY)
    file = experiment(here, {"python": "picky.py:Picky"})
    expected = digest_of(file)
    (here / "picky.py").write_text(f'"""Moved lines and a comment change nothing."""  # none\n{PICKY}')
    (here / "picky.py").write_text(f"# none\n\n{PICKY}")
    assert digest_of(file) == expected
    (here / "picky.py").write_text(PICKY.replace("-0.3", "-0.4"))
    for command in (Run(Experiment.load(file)).check, Run(Experiment.load(file)).search):
        with pytest.raises(UserError, match=r"(?s)scored on tasks that have changed.*Picky: the task's code"):
            command()


def test_a_file_that_is_not_there_is_named_with_its_field(here: Path) -> None:
    file = experiment(here, "zoo_add", {"python": "picky.py:Picky"})
    with pytest.raises(ExperimentError, match=r"fitness\.tasks\[1\]\.python: there is no file 'picky\.py'"):
        Experiment.load(file)


def test_check_says_that_code_of_the_users_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from evomerge.cli.main import app

    monkeypatch.delenv("COLUMNS", raising=False)  # with it, lines break
    (here / "picky.py").write_text(PICKY)
    file = experiment(here, {"python": "picky.py:Picky"})
    shown = CliRunner().invoke(app, ["check", str(file)])
    assert shown.exit_code == 0
    assert f"Picky: your Python code in {here / 'picky.py'}:Picky, which runs with all" in shown.output
