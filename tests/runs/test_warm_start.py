"""A search that begins at the best points of another study, or at recipes."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT, environment

from evomerge import Experiment, Run, UserError
from evomerge.report.tables import search_text
from evomerge.search.results import Ending

Change = Callable[[dict[str, Any]], None]


def make_run(folder: Path, name: str, warm_start: Any = None, change: Change = lambda _: None) -> Run:
    document = json.loads(json.dumps(EXPERIMENT))
    document["name"] = name
    document["search"] |= {"seed": 3 if warm_start is None else 11}
    if warm_start is not None:
        document["search"]["warm_start"] = warm_start
    change(document)
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(document))
    return Run(Experiment.load(path, {"output.dir": str(folder / name)}))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished search."""
    run = make_run(tmp_path_factory.mktemp("old"), "old")
    run.search()
    return run


@pytest.fixture(scope="module")
def winner(old: Run) -> str:
    with old.study() as study:
        best = study.winner()
        assert best is not None
        return best.name


def where(run: Run) -> str:
    return f"{run.experiment.storage}#{run.experiment.name}"


def frame(run: Run) -> Any:
    with run.study() as study:
        return study.to_dataframe().drop(columns=["materialize_s", "evaluate_s"]).set_index("name")


def parameters(rows: Any, name: str) -> dict[str, float]:
    return {c: rows.loc[name, c] for c in rows.columns if c.startswith("param/")}


def test_the_winner_is_the_first_candidate_and_its_result_is_taken_over(
    old: Run, winner: str, tmp_path: Path
) -> None:
    new = make_run(tmp_path, "new", where(old))
    found = new.search()
    before, after = frame(old), frame(new)
    assert parameters(after, "g0.0") == parameters(before, winner)
    assert after.loc["g0.0", "cached_from"] == f"old:{winner}"
    for column in ("search", "fingerprint"):
        assert after.loc["g0.0", column] == before.loc[winner, column]
    baselines = after[after["kind"] == "baseline"]
    assert list(baselines["cached_from"]) == [f"old:{name}" for name in baselines.index]
    scored = after["cached_from"].isna().sum()
    later = sum(after[split].notna().sum() for split in ("validation", "test"))
    assert found.evaluated == scored + later
    assert new.export().fingerprint is not None


def test_it_is_the_same_study_however_often_it_is_stopped_even_if_the_other_one_is_gone(
    old: Run, tmp_path: Path
) -> None:
    folder = shutil.copytree(old.experiment.folder, tmp_path / "copy")
    copy = f"sqlite:///{folder}/study.db#old"
    whole = make_run(tmp_path, "whole", copy)
    whole.search()
    broken = make_run(tmp_path, "broken", copy)
    for _ in range(20):
        calls: list[None] = []

        def should_stop(calls: list[None] = calls) -> bool:
            calls.append(None)
            return len(calls) > 3

        ending = Run(broken.experiment).search(should_stop=should_stop).ending
        if folder.exists():
            shutil.rmtree(folder)
        if ending is Ending.BUDGET:
            break
    Run(broken.experiment).search()
    with whole.study() as left, broken.study() as right:
        assert left.study.digest() == right.study.digest()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d["fitness"]["splits"].update(seed=5), "its fitness section or its tasks differ"),
        (lambda d: d["workers"].update(dtype="bfloat16"), "it calculated in another dtype"),
        (lambda d: d["models"].update(sort=d["models"]["reverse"]), "its models or their weights differ"),
    ],
)
def test_results_of_other_models_items_or_dtypes_are_not_taken_over(
    change: Change, why: str, old: Run, winner: str, tmp_path: Path
) -> None:
    new = make_run(tmp_path, "new", where(old), change)
    assert any(why in warning for warning in new.prepare())
    new.search()
    after = frame(new)
    assert parameters(after, "g0.0") == parameters(frame(old), winner)
    assert after.loc["g0.0", "cached_from"] is None


def begun_without_a_trial(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of ``run`` ends when it starts its workers: what it takes over is written, and no trial."""

    def fail(*_: object) -> None:
        raise UserError("workers", "cannot be started")

    with monkeypatch.context() as patch:
        patch.setattr("evomerge.runs.run.make_executor", fail)
        with pytest.raises(UserError, match="cannot be started"):
            run.search()


def test_what_was_taken_over_counts_before_the_first_trial_even_if_the_other_study_is_gone(
    old: Run, winner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(old.experiment.folder, tmp_path / "copy")
    new = make_run(tmp_path, "new", f"sqlite:///{folder}/study.db#old")
    begun_without_a_trial(new, monkeypatch)
    shutil.rmtree(folder)
    Run(new.experiment).search()
    assert frame(new).loc["g0.0", "cached_from"] == f"old:{winner}"


def narrow(document: dict[str, Any]) -> None:
    document["recipe"]["models"][0]["parameters"]["weight"] = {"float": [0, 0.55], "init": 0.5}


def leave_out(document: dict[str, Any]) -> None:
    del document["search"]["warm_start"]


@pytest.mark.parametrize("mend", [narrow, leave_out])
def test_an_experiment_that_is_mended_before_the_first_trial_takes_over_what_it_says_now(
    mend: Change, old: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun_without_a_trial(make_run(tmp_path, "new", where(old)), monkeypatch)
    mended = make_run(tmp_path, "new", where(old), mend)
    mended.search()
    (tmp_path / "fresh").mkdir()
    fresh = make_run(tmp_path / "fresh", "new", where(old), mend)
    fresh.search()
    with mended.study() as left, fresh.study() as right:
        assert left.study.digest() == right.study.digest()


def test_results_are_taken_over_where_the_models_of_both_studies_are_equal_and_one_has_more(
    old: Run, tmp_path: Path
) -> None:
    def one_more(document: dict[str, Any]) -> None:
        document["models"]["again"] = document["models"]["sort"]

    new = make_run(tmp_path, "new", where(old), one_more)
    new.search()
    names = frame(new)["cached_from"].dropna()
    assert set(names) >= {f"old:{name}" for name in ("base", "add", "reverse", "sort")}


def test_a_password_in_the_url_of_the_other_study_stays_there(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me:hidden-word@127.0.0.1:1/db#old"
    run = make_run(tmp_path, "new", url)
    assert "hidden-word" not in json.dumps(run.experiment.document({}))
    assert "hidden-word" not in search_text(run.experiment.spec.search, run.experiment.space.dimensions)
    with pytest.raises(UserError) as caught:
        run.check()
    assert "hidden-word" not in str(caught.value)
    assert "search.warm_start" in str(caught.value)


def test_points_outside_the_new_bounds_are_left_out_counted_and_named(old: Run, tmp_path: Path) -> None:
    warnings = make_run(tmp_path, "new", where(old), narrow).prepare()
    (told,) = [w for w in warnings if "points of study 'old' cannot be expressed" in w]
    rows = frame(old)
    candidates = rows[(rows["kind"] == "candidate") & rows["cached_from"].isna()]
    weights = candidates[[c for c in rows.columns if c.startswith("param/")]]
    outside = candidates[(weights > 0.55).any(axis=1)].index
    assert f"{len(outside)} of {len(candidates)} points" in told
    assert 0 < len(outside) < len(candidates)
    assert all(name in told for name in outside)


def test_recipes_are_starting_points(old: Run, winner: str, tmp_path: Path) -> None:
    old.export(tmp_path / "best.yml")
    new = make_run(tmp_path, "new", ["best.yml"])
    new.search()
    expected, found = parameters(frame(old), winner), parameters(frame(new), "g0.0")
    assert found == pytest.approx(expected, abs=1e-12)


def test_what_cannot_be_found_or_expressed_is_one_message(old: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"search\.warm_start: .*nothing-here"):
        make_run(tmp_path, "a", "nothing-here").prepare()
    (tmp_path / "other.yml").write_text("merge_method: passthrough\nmodels: [{model: base}]\n")
    with pytest.raises(UserError, match=r"search\.warm_start: nothing of other\.yml can be taken over"):
        make_run(tmp_path, "b", ["other.yml"]).check()


def test_a_drifted_study_names_what_changed_and_shows_the_command_of_its_successor(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, "drifted")
    run.search()
    path = run.experiment.path
    moved = run.experiment.folder / "study.db"
    _pretend_another_version(moved)
    told = cli("search", path, "--out", run.experiment.folder, "--trials", "12")
    assert told.returncode == 2
    assert "cma 1.0 ->" in told.stderr
    line = told.stderr.strip().splitlines()[-1].strip()
    assert line.startswith("evomerge search")
    assert "--study drifted-2 --warm-start" in line
    again = cli(*shlex.split(line)[1:])
    assert again.returncode == 0, again.stderr


def cli(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evomerge.cli.main", *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def _pretend_another_version(file: Path) -> None:
    """The last candidate is another one, proposed by another version of pycma."""
    with sqlite3.connect(file) as db:
        (manifest,) = db.execute(
            "select value_json from study_user_attributes where key='evomerge'"
        ).fetchone()
        stored = json.loads(manifest)
        stored["versions"]["cma"] = "1.0"
        db.execute(
            "update study_user_attributes set value_json=? where key='evomerge'", (json.dumps(stored),)
        )
        rows = db.execute("select trial_id, value_json from trial_system_attributes").fetchall()
        for trial, text in rows:
            main = json.loads(text)
            if isinstance(main, dict) and main.get("place") == [1, 3]:
                main["vector"][0] = 0.123
                db.execute(
                    "update trial_system_attributes set value_json=? where trial_id=? and value_json=?",
                    (json.dumps(main), trial, text),
                )
