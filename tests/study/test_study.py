from __future__ import annotations

import json
import math
import pickle
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import DISCRETE, MIXED, fake_scores, make_plan

from evomerge.errors import FailureKind, StudyError
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import SearchSpace, parse_recipe
from evomerge.study.lookup import study_names
from evomerge.study.storage import retry
from evomerge.study.study import SplitResult, Study, Trial, versions
from evomerge.workers.jobs import Failure, Seconds

SPACE = SearchSpace(MIXED)
DOCUMENT = {"search": {"seed": 7, "trials": 10}, "fitness": {"tasks": [{"task": "add"}, {"task": "code"}]}}
BASELINE = Trial("baseline", "base", -1, 0, "digest0", values=(0.25,), scores=None)


def candidate(generation: int, index: int, score: float | None = 0.5) -> Trial:
    vector = tuple(float(c) for c in (1.0, 0.1 * (index + 1), 1 / 3, 0.7, 0.1))
    values = SPACE.decode(vector)
    scores = None if score is None else fake_scores(SPACE.fill(values), Split.SEARCH)
    failure = Failure(FailureKind.TIMEOUT, "took 600 s") if score is None else None
    return Trial(
        kind="candidate",
        name=f"g{generation}.{index}",
        generation=generation,
        index=index,
        recipe=f"digest{generation}{index}",
        vector=vector,
        parameters=values,
        values=() if score is None else (score,),
        scores=scores,
        failure=failure,
        fingerprint=f"xxh:{generation}{index}",
        seconds=Seconds(0.5, 1.25),
        attempts=2,
    )


def opened(storage: str, name: str = "first") -> Study:
    return Study.open(storage, name, document=DOCUMENT, dimensions=SPACE.dimensions)


def test_what_is_recorded_comes_back_equal(storage: str) -> None:
    study = opened(storage)
    assert not study.resumed
    trials = [BASELINE, candidate(0, 1), candidate(0, 0, 1 / 3), candidate(0, 2, None)]
    recorded = [study.record(t) for t in trials]
    assert [t.number for t in recorded] == [0, 1, 2, 3]
    again = opened(storage)
    assert again.resumed
    assert again.trials() == (recorded[0], recorded[2], recorded[1], recorded[3])
    assert again.trials() == study.trials()
    assert again.document == DOCUMENT
    assert again.versions == versions()
    assert again.snapshot() == study.snapshot()
    assert again.digest() == study.digest()
    assert study_names(storage) == ("first",)
    study.close()
    again.close()
    again.close()


def test_item_scores_are_read_when_they_are_looked_at_and_equal_what_was_stored(journal: str) -> None:
    whole = candidate(0, 0).scores
    assert whole is not None
    for stored in (opened(journal).record(candidate(0, 0)).scores, opened(journal).trial(0).scores):
        assert stored is not None
        assert not vars(stored).keys() & {"split", "tasks"}
        copied = pickle.loads(pickle.dumps(stored))
        assert stored == whole
        assert whole == stored
        assert copied == whole
        assert hash(stored) == hash(whole)
        assert stored.document() == whole.document()
        assert stored != replace(whole, split=Split.TEST)
        assert stored != whole.document()
        with pytest.raises(AttributeError):
            _ = stored.nothing  # type: ignore[attr-defined]


def test_the_names_of_items_are_stored_once_and_not_with_every_trial(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    with opened(url) as study:
        study.record(BASELINE)
        study.record(candidate(0, 0))
        first = candidate(0, 0).scores
        assert first is not None
    with opened(url) as study:
        study.record(candidate(0, 1))
        study.record_split(1, Split.TEST, SplitResult(candidate(0, 0).scores))
        assert study.trial(2).scores == candidate(0, 1).scores
    names = {item.item for task in first.tasks for item in task.items}
    assert names
    with sqlite3.connect(tmp_path / "study.db") as database:
        query = "SELECT value_json FROM {}_user_attributes WHERE value_json LIKE ?"
        for name in names:
            assert not database.execute(query.format("trial"), (f"%{name}%",)).fetchall()
            assert len(database.execute(query.format("study"), (f"%{name}%",)).fetchall()) == 1


def test_a_trial_whose_items_are_gone_is_damage_that_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    with opened(url) as study:
        study.record(candidate(0, 0))
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("DELETE FROM study_user_attributes WHERE \"key\" LIKE 'items:%'")
    scores = opened(url).trial(0).scores
    with pytest.raises(StudyError, match="the scores of a trial cannot be read"):
        _ = scores and scores.tasks


def test_results_on_other_splits_come_back_equal(storage: str) -> None:
    study = opened(storage)
    study.record(BASELINE)
    study.record(candidate(0, 0))
    good = SplitResult(
        fake_scores(parse_recipe({"merge_method": "linear", "models": [{"model": "a"}]}), Split.TEST)
    )
    bad = SplitResult(None, Failure(FailureKind.OUT_OF_MEMORY, "8 GiB"), None)
    study.record_split(1, Split.TEST, good)
    study.record_split(0, Split.TEST, bad)
    study.record_split(1, Split.VALIDATION, good)
    again = opened(storage)
    for each in (study, again):
        assert each.split_results(Split.TEST) == {0: bad, 1: good}
        assert list(each.split_results(Split.TEST)) == [0, 1]
        assert each.split_scores(Split.TEST) == {1: good.scores}
        assert each.split_scores(Split.VALIDATION) == {1: good.scores}
        assert each.split_scores(Split.SEARCH) == {1: each.trial(1).scores}
    with pytest.raises(StudyError, match="test/1 is recorded already"):
        again.record_split(1, Split.TEST, good)
    with pytest.raises(StudyError, match="there is no trial 7; they run from 0 to 1"):
        again.record_split(7, Split.TEST, good)


def test_several_studies_live_in_one_storage(storage: str) -> None:
    first, second = opened(storage, "first"), opened(storage, "second")
    first.record(candidate(0, 0))
    second.record(BASELINE)
    assert [t.name for t in opened(storage, "second").trials()] == ["base"]
    assert opened(storage, "second").record(candidate(0, 0)).number == 1
    assert study_names(storage) == ("first", "second")
    with pytest.raises(StudyError, match=r"there is no study 'frist'\. It has: first, second"):
        Study.open(storage, "frist")
    assert Study.open(storage, "first").trials() == first.trials()


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=5, max_size=5),
    score=st.floats(-1e300, 1e300),
    values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=5),
    text=st.text(max_size=20),
)
def test_every_number_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[float],
    score: float,
    values: list[float],
    text: str,
) -> None:
    storage = f"sqlite:///{tmp_path_factory.getbasetemp()}/numbers.db"
    items = tuple(ItemScore(f"{text}{i}", v, 2.0) for i, v in enumerate(values))
    scores = Scores(
        Split.SEARCH,
        (TaskScore("t", "m", values[0], higher_is_better=False, aggregation="mean", items=items),),
    )
    trial = replace(candidate(0, 0), vector=tuple(numbers), values=(score,), scores=scores)
    with_name = f"study{len(study_names(storage)) if Path(storage[10:]).exists() else 0}"
    study = Study.open(storage, with_name, document={})
    recorded = study.record(trial)
    back = Study.open(storage, with_name).trial(0)
    assert back == recorded
    assert [math.copysign(1, n) for n in back.vector] == [math.copysign(1, n) for n in numbers]
    study.close()


def test_generations_are_in_order_whatever_finished_first(journal: str) -> None:
    study = opened(journal)
    for place in ((0, 2), (0, 0), (0, 1), (1, 1)):
        study.record(candidate(*place))
    assert [[t.name for t in g] for g in opened(journal).generations()] == [
        ["g0.0", "g0.1", "g0.2"],
        ["g1.1"],
    ]


@pytest.mark.parametrize(
    ("places", "lag"),
    [
        ([(0, 0), (0, 2), (1, 0)], 0),
        ([(1, 0)], 0),
        ([(0, 0), (2, 0)], 0),
        ([(0, 0), (0, 2), (1, 0), (1, 2)], 2),
        ([(0, 2), (1, 2), (3, 0)], 3),
    ],
)
def test_a_hole_in_a_generation_that_must_be_whole_is_damage(
    journal: str, places: list[tuple[int, int]], lag: int
) -> None:
    study = opened(journal)
    for place in places:
        study.record(candidate(*place))
    with pytest.raises(StudyError, match="damaged"):
        study.count_closed(lag)


@pytest.mark.parametrize(
    ("places", "lag", "closed"),
    [
        ([], 0, 0),
        ([(0, 0), (0, 2)], 0, 0),
        ([(0, 0), (0, 1), (1, 1)], 0, 1),
        ([(0, 0), (0, 2), (1, 1)], 2, 0),
        ([(0, 0), (0, 1), (1, 0), (1, 2)], 2, 1),
        ([(0, 0), (0, 1), (2, 0)], 2, 0),
    ],
)
def test_generations_within_the_lag_may_have_holes(
    journal: str, places: list[tuple[int, int]], lag: int, closed: int
) -> None:
    study = opened(journal)
    for place in places:
        study.record(candidate(*place))
    assert study.count_closed(lag) == closed


def test_one_place_is_recorded_once(journal: str) -> None:
    study = opened(journal)
    study.record(candidate(0, 0))
    with pytest.raises(StudyError, match=r"g0\.0 is recorded already"):
        study.record(candidate(0, 0))


def test_of_two_trials_in_one_place_the_first_counts(storage: str) -> None:
    study = opened(storage)
    study.record(candidate(0, 0, 0.5))
    del study._trials[0, 0]  # as if it did not know
    study.record(candidate(0, 0, 0.75))
    assert [(t.number, t.score) for t in opened(storage).trials()] == [(0, 0.5)]


def test_a_study_opened_without_its_experiment_is_only_read(storage: str) -> None:
    opened(storage).record(BASELINE)
    study = Study.open(storage, "first")
    with pytest.raises(StudyError, match="only read"):
        study.record(candidate(0, 0))
    with pytest.raises(StudyError, match="only read"):
        study.record_split(0, Split.TEST, SplitResult())
    assert [t.name for t in opened(storage).trials()] == ["base"]


def test_best_is_the_highest_score_and_the_earlier_of_equals(journal: str) -> None:
    study = opened(journal)
    assert study.best() is None
    for trial in (
        candidate(0, 1, 0.7),
        candidate(0, 0, 0.7),
        candidate(0, 2, -3.0),
        candidate(0, 3, None),
        BASELINE,
    ):
        study.record(trial)
    assert (best := study.best()) is not None
    assert best.name == "g0.0"
    assert (beaten := study.best("baseline")) is not None
    assert beaten.name == "base"


def test_optuna_itself_reads_the_study(journal: str, tmp_path: Path) -> None:
    import optuna

    study = opened(f"sqlite:///{tmp_path}/study.db")
    study.record(candidate(0, 0, 0.25))
    study.record(candidate(0, 1, 0.75))
    study.record(candidate(0, 2, None))
    seen = optuna.load_study(study_name="first", storage=f"sqlite:///{tmp_path}/study.db")
    assert seen.best_value == 0.75
    assert seen.best_params == dict(study.trial(1).parameters)
    assert [t.state.name for t in seen.trials] == ["COMPLETE", "COMPLETE", "FAIL"]


def test_a_trial_is_one_transaction(tmp_path: Path) -> None:
    import sqlalchemy

    study = opened(f"sqlite:///{tmp_path}/study.db")
    study.record(BASELINE)
    study.record(candidate(0, 1))  # with the names of the items
    engine = study._storage._log.optuna_storage.engine  # type: ignore[attr-defined]
    inserts_in_transactions = [0]

    def count(_: object, __: object, statement: str, *___: object) -> None:
        inserts_in_transactions[-1] += statement.startswith("INSERT")

    sqlalchemy.event.listen(engine, "before_cursor_execute", count)
    sqlalchemy.event.listen(engine, "commit", lambda _: inserts_in_transactions.append(0))
    study.record(candidate(0, 0))
    assert sum(1 for inserts in inserts_in_transactions if inserts) == 1
    assert sum(inserts_in_transactions) > 5


def test_sqlite_writes_through_to_the_disk_and_does_not_block_readers(tmp_path: Path) -> None:
    study = opened(f"sqlite:///{tmp_path}/deep/er/study.db")
    with study._storage._log.optuna_storage.engine.connect() as connection:  # type: ignore[attr-defined]
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    study.close()


# --- another experiment ------------------------------------------------------------------------------------


def test_an_experiment_that_differs_is_refused_with_its_fields(storage: str) -> None:
    opened(storage).record(BASELINE)
    other = json.loads(json.dumps(DOCUMENT))
    other["search"] |= {"seed": 8, "trials": 99}
    other["fitness"]["tasks"][1]["task"] = "shell"
    other["fitness"]["limit"] = 5
    with pytest.raises(StudyError) as caught:
        Study.open(storage, "first", document=other, free=("search.trials", "workers"))
    lines = str(caught.value).splitlines()
    assert "'first'" in lines[0]
    assert lines[1:] == [
        "  - search.seed: 7 -> 8",
        "  - fitness.tasks[1].task: 'code' -> 'shell'",
        "  - fitness.limit: None -> 5",
    ]
    same = Study.open(storage, "first", document={**DOCUMENT, "workers": 3}, free=("workers",))
    # Those who read the study later see what the last run was given.
    assert same.document == {**DOCUMENT, "workers": 3}
    assert Study.open(storage, "first").document == same.document


def test_a_study_without_a_trial_takes_the_experiment_as_it_was_mended(storage: str) -> None:
    opened(storage).close()
    mended = {**DOCUMENT, "fitness": {"tasks": [{"task": "shell"}]}}
    Study.open(storage, "first", document=mended).record(BASELINE)
    assert Study.open(storage, "first").document == mended
    with pytest.raises(StudyError, match="another experiment"):
        opened(storage)


def test_a_field_that_was_removed_or_emptied_is_a_difference(journal: str) -> None:
    study = opened(journal)
    assert [str(d) for d in study.differing_fields({"search": DOCUMENT["search"]})] == [
        "fitness.tasks[0].task: 'add' -> None",
        "fitness.tasks[1].task: 'code' -> None",
    ]
    assert [d.field for d in study.differing_fields({**DOCUMENT, "empty": {}})] == ["empty"]
    assert (
        study.differing_fields({**DOCUMENT, "fitness": {"tasks": ({"task": "add"}, {"task": "code"})}}) == ()
    )
    names = [d.field for d in study.differing_fields({**DOCUMENT, "searching": 1}, free=("search",))]
    assert names == ["searching"]  # a free field is no prefix of another's name


def test_a_study_killed_while_it_was_created_is_created_again(storage: str) -> None:
    from evomerge.study.storage.opening import open_storage

    half = open_storage(storage, create=True)
    half.create_study("first", ["score"])
    half.close()
    assert opened(storage).document == DOCUMENT
    assert opened(storage).document == DOCUMENT


def test_a_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(storage=url, study_name="first").add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match="not written by evomerge"):
        opened(url)


def test_a_study_of_a_later_format_is_refused(journal: str) -> None:
    study = opened(journal)
    study._storage.set_attribute("first", "evomerge", {**study._manifest.stored(), "format": 3})
    with pytest.raises(StudyError, match="later evomerge"):
        opened(journal)


# --- storages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cr%40t@127.0.0.1:1/studies",
        "postgresql+psycopg://ann:s3cr%40t@127.0.0.1:1/studies",
        "postgresql+psycopg://ann@127.0.0.1:1/studies?password=s3cr%40t",
        "postgresql+psycopg://ann:s3cr@t@127.0.0.1:1/studies",
        "postgresql+psycopg://ann:s3crt@127.0.0.1:port/studies",
        "mysql://ann:s3crt@127.0.0.1/studies",
        "postgresql+psycopg:/ann:s3crt@127.0.0.1/studies",
        "s3crt",
        "journal://",
        "",
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_clear_error_without_a_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.1)
    with pytest.raises(StudyError) as caught:
        Study.open(url, "first", document=DOCUMENT)
    for secret in ("s3crt", "s3cr@t", "s3cr%40t", "s3cr"):
        assert secret not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_url_is_shown_without_its_password() -> None:
    from evomerge.study.storage.opening import redact

    assert redact("postgresql://a:b@h/d") == "postgresql://a:***@h/d"
    assert redact("postgresql://a@b:c@h/d") == "postgresql://a@b:***@h/d"
    assert redact("postgresql://@:c/@h/d") == "postgresql://@:***@h/d"
    assert redact("postgresql://a@h/d?sslpassword=x&y=1") == "postgresql://a@h/d?sslpassword=***&y=1"
    assert redact("sqlite:////home/x@y/study.db") == "sqlite:////home/x@y/study.db"


def test_a_missing_file_is_named_and_not_made(tmp_path: Path) -> None:
    for url, path in ((f"sqlite:///{tmp_path}/no/study.db", "no/study.db"), (f"{tmp_path}/no.log", "no.log")):
        with pytest.raises(StudyError, match=f"{path}: there is no study"):
            Study.open(url, "first")
        with pytest.raises(StudyError, match=path):
            study_names(url)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_text("no database, surely\n" * 100)
    with pytest.raises(StudyError, match=r"study\.db: is not an SQLite database"):
        opened(f"sqlite:///{path}")
    folder = tmp_path / "study.log"
    folder.mkdir()
    with pytest.raises(StudyError, match=r"study\.log: the storage failed"):
        opened(f"journal:///{folder}")
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"Not a directory|File exists"):
        opened(f"sqlite:///{tmp_path}/file/study.db")


def test_a_write_that_fails_is_an_error_and_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = opened(f"sqlite:///{path}")
    study.record(BASELINE)
    with sqlite3.connect(path) as vandal:
        vandal.execute("ALTER TABLE trial_values RENAME TO gone")
    with pytest.raises(StudyError, match="no such table"):
        study.record(candidate(0, 0))
    assert [t.name for t in study.trials()] == ["base"]
    with sqlite3.connect(path) as vandal:
        vandal.execute("ALTER TABLE gone RENAME TO trial_values")
    assert study.record(candidate(0, 0)).number == 1
    assert [t.name for t in opened(f"sqlite:///{path}").trials()] == ["base", "g0.0"]


def test_a_journal_cut_in_mid_line_loses_only_that_line(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    study = opened(str(path))
    study.record(candidate(0, 0))
    whole = path.read_bytes()
    study.record(candidate(0, 1))
    for length in (len(whole) + 1, len(whole) + 200):
        path.write_bytes((whole + b'{"op_code":4,"worker_id":"x' * 20)[:length])
        assert [t.name for t in Study.open(str(path), "first").trials()] == [
            "g0.0"
        ]  # a reader changes nothing
        assert path.stat().st_size == length
        again = opened(str(path))
        assert path.read_bytes().startswith(whole)
        assert all(json.loads(line) for line in path.read_bytes()[len(whole) :].splitlines())
        again.record(candidate(0, 1))
        assert [t.name for t in opened(str(path)).trials()] == ["g0.0", "g0.1"]


def test_whole_numbers_stay_whole(journal: str) -> None:
    plan = make_plan(DISCRETE)
    study = Study.open(journal, "first", document={}, dimensions=plan.space.dimensions)
    trial = replace(candidate(0, 0), parameters={"math.weight": 2, "code.weight": 0}, vector=(2.0, 0.0))
    assert study.record(trial).parameters == {"math.weight": 2, "code.weight": 0}


def test_importing_the_search_is_light() -> None:
    script = (
        "import sys, evomerge.study.study, evomerge.search.controller, evomerge.search.leaderboard\n"
        "heavy = {'torch', 'optuna', 'cma', 'lm_eval', 'ray', 'sqlalchemy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=True)
