"""Storages that lock, break, restart, fill up, or hold what only Optuna knows."""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import example, given
from hypothesis import strategies as st
from postgres_support import PostgresServer
from search_fakes import MIXED, Disturbed, check_search, fake_scores, make_plan, reference

from evomerge.errors import FailureKind, StudyError
from evomerge.fitness.scores import Split
from evomerge.recipe import SearchSpace
from evomerge.search.observers import Observer
from evomerge.study.storage import database, locks, retry
from evomerge.study.storage.optuna_log import OptunaLog
from evomerge.study.storage_row import MAIN, LeaseLost, json_text
from evomerge.study.study import SplitResult, Study, Trial
from evomerge.workers.jobs import Failure

SPACE = SearchSpace(MIXED)
PLAN = make_plan(trials=30)


def opened(url: str) -> Study:
    return Study.open(url, "s", document={}, dimensions=SPACE.dimensions)


def candidate(index: int, score: float | None = 0.5) -> Trial:
    vector = (1.0, 0.1 * (index + 1), 1 / 3, 0.7, 0.1)
    values = SPACE.decode(vector)
    return Trial(
        "candidate",
        f"g0.{index}",
        0,
        index,
        f"digest{index}",
        vector,
        values,
        () if score is None else (score,),
        None if score is None else fake_scores(SPACE.fill(values), Split.SEARCH),
        Failure(FailureKind.TIMEOUT, "took 600 s") if score is None else None,
    )


def log_of(study: Study) -> Any:
    return study._storage._log


# --- Optuna and its schema ---------------------------------------------------------------------------------


def optuna_storage(url: str) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if url.startswith("journal"):
        return JournalStorage(JournalFileBackend(url.removeprefix("journal:///")))
    return RDBStorage(url)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(exclude_categories=())),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@example(["a name that is no UTF-8: \udcff", "é", 1e-7, -0.0, math.inf])
def test_stored_text_is_ascii_and_reads_as_the_same_value(value: Any) -> None:
    text = json_text(value)
    assert text.isascii()
    assert repr(json.loads(text)) == repr(value)


def test_beside_a_trial_that_somebody_else_added_ours_get_numbers_of_their_own(storage: str) -> None:
    import optuna

    study = opened(storage)
    study.record(candidate(0))
    foreign = optuna_storage(storage)
    optuna.load_study(study_name="s", storage=foreign).add_trial(optuna.trial.create_trial(value=1.0))
    if not storage.startswith("journal"):
        foreign.engine.dispose()
    assert study.record(candidate(1)).number == 2
    assert [t.number for t in opened(storage).trials()] == [0, 2]


class Interrupting(Observer):
    def __init__(self, after: int) -> None:
        self._left = after

    def on_trial(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


# --- a server that restarts --------------------------------------------------------------------------------


@pytest.mark.postgres
def test_a_server_that_restarts_in_mid_search_loses_no_trial_and_repeats_none(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    expected = reference(PLAN, tmp_path)
    url = postgres_server.new_database()
    study = opened(url)
    modes = itertools.cycle(("fast", "immediate"))
    restarts = Disturbed(
        lambda: postgres_server.stop(next(modes)), postgres_server.start, every=0.5, seconds=0.0
    )
    check_search(PLAN, study, url, expected, restarts)
    assert restarts.times >= 2


@pytest.mark.postgres
@pytest.mark.parametrize("begun", [False, True])
def test_a_search_that_starts_while_the_server_restarts_waits_for_it_and_who_reads_does_not(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture, *, begun: bool
) -> None:
    url = postgres_server.new_database()
    if begun:
        with opened(url) as study:
            study.record(candidate(0))
    postgres_server.stop("immediate")
    try:
        start = time.monotonic()
        with pytest.raises(StudyError, match=r"the storage failed: .*refused"):
            Study.open(url, "s")
        assert time.monotonic() - start < 5
        assert "does not answer" not in caplog.text
    finally:
        thread = threading.Timer(1.0, postgres_server.start)
        thread.start()
    with opened(url) as study:
        assert study.record(candidate(1)).number == int(begun)
    thread.join()
    assert caplog.text.count("The storage does not answer") == 1


@pytest.mark.postgres
def test_a_server_that_refuses_is_not_waited_for(postgres_server: PostgresServer) -> None:
    for url in (
        postgres_server.url_with_password("postgres", "wrong"),
        postgres_server.url.removesuffix("postgres") + "nowhere",
    ):
        start = time.monotonic()
        with pytest.raises(StudyError, match=r"the storage failed: .*FATAL"):
            opened(url)
        assert time.monotonic() - start < 5


@pytest.mark.postgres
def test_a_connection_that_the_server_ends_is_made_again(postgres_server: PostgresServer) -> None:
    import psycopg

    url = postgres_server.new_database()
    study = opened(url)
    for index in range(3):
        with psycopg.connect(postgres_server.url.replace("+psycopg", ""), autocommit=True) as connection:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(query, (url.rsplit("/", maxsplit=1)[-1],))
        assert study.record(candidate(index)).number == index
    assert len(Study.open(url, "s").trials()) == 3


@pytest.mark.postgres
def test_a_server_that_stays_away_ends_the_search_with_one_message(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.5)
    url = postgres_server.new_database()
    study = opened(url)
    study.record(candidate(0))
    postgres_server.stop("immediate")
    try:
        with pytest.raises(StudyError, match=r"the storage failed: .*refused"):
            study.record(candidate(1))
        assert caplog.text.count("The storage does not answer") == 1
        start = time.monotonic()
        study.close()  # does not wait either
        assert time.monotonic() - start < 5
    finally:
        postgres_server.start()
    assert [t.name for t in opened(url).trials()] == ["g0.0"]


# --- a write of which nobody knows whether it happened -----------------------------------------------------


def lost_after(write: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """``write``, but the first time its answer is lost."""
    calls = itertools.count()

    def lossy(*arguments: Any, **options: Any) -> Any:
        result = write(*arguments, **options)
        if next(calls) == 0:
            raise error
        return result

    return lossy


def passing_error(url: str) -> Exception:
    if url.startswith("sqlite"):
        busy = sqlite3.OperationalError("database is locked")
        busy.sqlite_errorcode = sqlite3.SQLITE_BUSY  # type: ignore[misc]
        return busy
    if url.startswith("journal"):
        return TimeoutError(110, "timed out")
    import psycopg

    return psycopg.OperationalError("server closed the connection unexpectedly")


def test_a_trial_whose_answer_was_lost_is_not_written_twice(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(storage)
    study.record(candidate(0))
    inner = log_of(study).optuna_storage
    monkeypatch.setattr(inner, "create_new_trial", lost_after(inner.create_new_trial, passing_error(storage)))
    assert study.record(candidate(1)).number == 1
    assert study.record(candidate(2)).number == 2
    assert [(t.number, t.name) for t in opened(storage).trials()] == [(0, "g0.0"), (1, "g0.1"), (2, "g0.2")]


def test_a_lease_whose_answer_was_lost_is_held(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(storage).close()
    set_it = OptunaLog.set_system_attribute
    monkeypatch.setattr(OptunaLog, "set_system_attribute", lost_after(set_it, passing_error(storage)))
    assert opened(storage).record(candidate(0)).number == 0


def test_a_split_whose_answer_was_lost_is_there_once(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(storage)
    study.record(candidate(0))
    write = log_of(study).set_attribute
    monkeypatch.setattr(log_of(study), "set_attribute", lost_after(write, passing_error(storage)))
    result = SplitResult(None, Failure(FailureKind.TIMEOUT, "x"))
    study.record_split(0, Split.TEST, result)
    assert opened(storage).split_results(Split.TEST) == {0: result}


# --- locks -------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Takes the storage's lock; what comes back lets go of it."""
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    held: list[Any] = []

    def lock(url: str) -> Any:
        if url.startswith("sqlite"):
            connection = sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)
            connection.execute("BEGIN IMMEDIATE")
            held.append(connection)
        else:
            file = (tmp_path / "study.log").open("ab")
            fcntl.flock(file, fcntl.LOCK_EX)
            held.append(file)
        return held[-1]

    yield lock
    for thing in held:
        thing.close()


URLS = ["sqlite:///{}/study.db", "journal:///{}/study.log"]


@pytest.mark.parametrize("url", URLS)
def test_a_storage_that_is_locked_for_a_while_is_waited_for(
    url: str, tmp_path: Path, locked: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    url = url.format(tmp_path)
    study = opened(url)
    study.record(candidate(0))
    lock = locked(url)
    timer = threading.Timer(1.0, lock.close)
    timer.start()
    assert study.record(candidate(1)).number == 1
    timer.join()
    if url.startswith("journal"):  # with a database, Optuna itself tries again first
        assert "The storage does not answer" in caplog.text
    assert [t.name for t in opened(url).trials()] == ["g0.0", "g0.1"]


@pytest.mark.parametrize("url", URLS)
def test_a_storage_that_stays_locked_is_an_error_and_leaves_no_trace(
    url: str, tmp_path: Path, locked: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.4)
    url = url.format(tmp_path)
    study = opened(url)
    lock = locked(url)
    with pytest.raises(StudyError, match=r"the storage failed: (database is locked|Resource temporarily)"):
        study.record(candidate(0))
    lock.close()
    assert study.record(candidate(1)).number == 0
    assert [t.name for t in opened(url).trials()] == ["g0.1"]


# --- full disks --------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_a_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    study = opened(str(path))
    study.record(candidate(0))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))  # half a line fits
    try:
        with pytest.raises(StudyError, match=r"study\.log: the storage failed: File too large"):
            study.record(candidate(1))
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert study.record(candidate(1)).number == 1
    assert [t.name for t in opened(str(path)).trials()] == ["g0.0", "g0.1"]


def test_a_full_disk_leaves_a_database_as_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = opened(url)
    study.record(candidate(0))
    engine = log_of(study).optuna_storage.engine

    def limit(connection: Any, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sqlalchemy.event.listen(engine, "checkout", limit)

    def fill() -> None:
        for index in range(1, 20):
            study.record(candidate(index))

    with pytest.raises(StudyError, match="the storage failed: database or disk is full"):
        fill()
    done = len(study.trials())
    assert 1 <= done < 20
    assert len(Study.open(url, "s").trials()) == done
    sqlalchemy.event.remove(engine, "checkout", limit)
    engine.dispose()
    assert study.record(candidate(done)).number == done


# --- what passes -------------------------------------------------------------------------------------------


def test_what_does_not_pass_is_not_tried_again() -> None:
    calls = []

    def refuse(again: bool) -> None:
        calls.append(again)
        raise LeaseLost

    with pytest.raises(LeaseLost):
        retry.retry(refuse, str)
    assert calls == [False]
    for error in (
        OSError(28, "No space left on device"),
        OSError(30, "Read-only file system"),
        sqlite3.OperationalError("no such table: trials"),
        sqlite3.DatabaseError("file is not a database"),
        ValueError("x"),
    ):
        assert not retry.is_passing(error)


@pytest.mark.postgres
def test_answers_of_a_server_that_are_no_outage_do_not_pass() -> None:
    psycopg = pytest.importorskip("psycopg")
    for name in ("UndefinedTable", "DiskFull", "InsufficientPrivilege", "StringDataRightTruncation"):
        assert not retry.is_passing(getattr(psycopg.errors, name)("x"))
    for name in ("AdminShutdown", "CannotConnectNow", "DeadlockDetected", "TooManyConnections"):
        assert retry.is_passing(getattr(psycopg.errors, name)("x"))


def test_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(retry.time, "sleep", sleep)
    monkeypatch.setattr(retry.time, "monotonic", lambda: clock[0])

    def busy(again: bool) -> None:
        raise passing_error("sqlite")

    with pytest.raises(sqlite3.OperationalError):
        retry.retry(busy, str)
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.4]
    assert max(pauses) == retry.LONGEST_PAUSE_S
    assert retry.PATIENCE_S - retry.LONGEST_PAUSE_S <= sum(pauses) <= retry.PATIENCE_S


def test_a_damaged_line_of_a_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    opened(str(path)).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], b"{half\n", lines[-1]]))
    with pytest.raises(StudyError, match=r"study\.log: a line of this journal is damaged"):
        Study.open(str(path), "s")


def test_the_main_attribute_tells_trials_apart(journal: str) -> None:
    study = opened(journal)
    for index in range(3):
        study.record(replace(candidate(0), index=index, name=f"g0.{index}"))
    rows = study._storage.trials("s")
    assert len({str(r.system[MAIN]) for r in rows}) == 3
