from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from search_fakes import FakeExecutor, make_plan

from evomerge.errors import StudyError
from evomerge.search.controller import search
from evomerge.study import lease as lease_module
from evomerge.study.lease import Holder, holder_of
from evomerge.study.storage.opening import open_storage
from evomerge.study.storage_row import LEASE
from evomerge.study.study import Study, Trial
from evomerge.workers.jobs import Job, Outcome

DRIVER = Path(__file__).with_name("holding_driver.py")
PLAN = make_plan()


class Driver:
    """Another process that holds, or tries to hold, a study."""

    def __init__(self, url: str) -> None:
        environment = {**os.environ, "PYTHONPATH": ":".join(p for p in sys.path if p)}
        command = [sys.executable, str(DRIVER), url]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._line() == "ready"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self._line()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


@pytest.fixture
def start() -> Iterator[Callable[[str], Driver]]:
    started: list[Driver] = []

    def make(url: str) -> Driver:
        started.append(Driver(url))
        return started[-1]

    yield make
    for driver in started:
        driver.end()


def opened(url: str) -> Study:
    return Study.open(url, "held", document={}, dimensions=PLAN.space.dimensions)


def baseline(index: int) -> Trial:
    return Trial("baseline", f"b{index}", -1, index, f"digest{index}", values=(0.5,))


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on drivers believe to be on another machine than those before."""
    monkeypatch.setattr(lease_module, "_machine", lambda: "another machine")


# --- two drivers -------------------------------------------------------------------------------------------


def test_a_second_driver_is_refused_while_the_first_lives_and_let_in_when_it_is_killed(
    storage: str, start: Callable[[str], Driver]
) -> None:
    first = start(storage)
    first.go()
    assert first.answer() == "held"
    with pytest.raises(StudyError) as caught:
        opened(storage)
    message = str(caught.value)
    assert f"process {first.process.pid} on {socket.gethostname()}, since 20" in message
    assert "it is running. Wait for it, or end it" in message
    assert Study.open(storage, "held").trials() == ()  # to read takes no lease
    first.process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while lease_module._start_time(first.process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    study = opened(storage)  # at once, and before anybody has waited for the dead process
    assert study.record(baseline(0)).number == 0


def test_of_drivers_that_start_at_once_on_an_empty_storage_one_goes_on(
    storage: str, start: Callable[[str], Driver]
) -> None:
    drivers = [start(storage) for _ in range(3)]
    for driver in drivers:
        driver.go()
    answers = sorted(driver.answer() for driver in drivers)
    assert answers[0] == "held"
    assert [a[:8] for a in answers[1:]] == ["refused "] * 2
    assert all("another driver is at work on it" in a for a in answers[1:])


def test_a_driver_that_closes_its_study_lets_the_next_in_from_anywhere(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(storage)
    first.record(baseline(0))
    first.close()
    elsewhere(monkeypatch)
    assert opened(storage).record(baseline(1)).number == 1


def test_a_driver_whose_study_was_taken_over_writes_nothing_more(storage: str) -> None:
    first = opened(storage)
    first.record(baseline(0))
    second = opened(storage)  # the same process: it takes its own lease over
    for _ in range(2):
        with pytest.raises(StudyError, match=rf"took it over \(process {os.getpid()} on .*this one stops"):
            first.record(baseline(1))
    first.close()  # and does not let go of what is no longer its own
    assert [t.name for t in Study.open(storage, "held").trials()] == ["b0"]
    assert second.record(baseline(2)).number == 1
    with pytest.raises(StudyError, match="took it over"):
        first.record(baseline(3))


def test_a_search_stops_when_its_study_is_taken_over(storage: str) -> None:
    first = opened(storage)
    takeover: list[Study] = []

    class Meddled(FakeExecutor):
        def _outcome(self, job: Job) -> Outcome:
            if len(self.jobs) == 9:
                takeover.append(opened(storage))
            return super()._outcome(job)

    executor = Meddled()
    with pytest.raises(StudyError, match="took it over"):
        search(PLAN, first, executor)
    assert len(executor.jobs) == 9
    assert len(Study.open(storage, "held").trials()) == 8


# --- another machine ---------------------------------------------------------------------------------------


def test_on_another_machine_a_fresh_heartbeat_is_believed(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(storage)
    elsewhere(monkeypatch)
    with pytest.raises(StudyError, match=r"its last sign of life came \d s ago.*60 s after its last sign"):
        opened(storage)


def test_on_another_machine_an_old_heartbeat_is_watched_and_then_replaced(
    storage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened(storage)
    elsewhere(monkeypatch)
    monkeypatch.setattr(lease_module, "DEAD_AFTER_S", -1.0)
    monkeypatch.setattr(lease_module, "WATCH_S", 0.2)
    second = opened(storage)
    assert "last sign of life" in caplog.text
    assert second.record(baseline(0)).number == 0
    with pytest.raises(StudyError, match="took it over"):
        first.record(baseline(1))


def test_a_heartbeat_that_only_looks_old_keeps_the_lease(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.1)
    first = opened(storage)
    elsewhere(monkeypatch)
    monkeypatch.setattr(lease_module, "DEAD_AFTER_S", -1.0)
    monkeypatch.setattr(lease_module, "WATCH_S", 5.0)
    with pytest.raises(StudyError, match="another driver is at work"):
        opened(storage)
    first.record(baseline(0))


# --- heartbeat ---------------------------------------------------------------------------------------------


def test_the_heartbeat_disturbs_neither_trials_nor_their_numbers(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.001)
    study = opened(storage)
    search(PLAN, study, FakeExecutor(order=3))
    beats = study._storage.system_attribute("held", "evomerge:heartbeat")
    assert beats is not None
    again = Study.open(storage, "held")
    assert again.digest() == study.digest()
    assert sorted(t.number for t in again.trials()) == list(range(len(again.trials())))


def test_the_heartbeat_outlives_a_failure_of_the_storage(
    journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.01)
    calls: list[str] = []
    study = opened(journal)
    beat = study._storage.beat

    def sometimes(name: str, key: str, value: str) -> None:
        calls.append(value)
        if len(calls) < 3:
            raise StudyError("storage", "gone")
        beat(name, key, value)

    monkeypatch.setattr(study._storage, "beat", sometimes)
    deadline = time.monotonic() + 10
    while len(calls) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert study._storage.system_attribute("held", "evomerge:heartbeat") is not None


# --- who is alive ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_process_id_that_now_belongs_to_another_process_is_no_living_driver(journal: str) -> None:
    opened(journal).close()
    storage = open_storage(journal, create=True)
    alive = os.getppid()
    started = lease_module._start_time(alive)
    holder = Holder("t", lease_module._machine(), "host", alive, started, "2026-01-01 00:00:00.000")
    storage.set_system_attribute("held", LEASE, json.dumps(asdict(holder)))
    with pytest.raises(StudyError, match=f"process {alive} on host, since 2026-01-01"):
        opened(journal)
    reborn = replace(holder, started="1")
    storage.set_system_attribute("held", LEASE, json.dumps(asdict(reborn)))
    opened(journal)
    assert (now := holder_of(storage, "held")) is not None
    assert now.pid == os.getpid()


def test_a_reader_sees_who_holds_the_study_and_whether_it_lives(
    storage: str, start: Callable[[str], Driver]
) -> None:
    first = start(storage)
    first.go()
    assert first.answer() == "held"
    with Study.open(storage, "held") as reader:
        driver = reader.driver()
        assert driver is not None
        assert (driver.host, driver.pid, driver.alive) == (socket.gethostname(), first.process.pid, True)
        assert 0 <= driver.silent_s < 30
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        assert (dead := reader.driver()) is not None
        assert (dead.pid, dead.since, dead.alive) == (driver.pid, driver.since, False)
    opened(storage).close()
    assert Study.open(storage, "held").driver() is None  # given back


def test_from_another_machine_a_driver_lives_as_long_as_its_heartbeat_is_young(
    journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(journal)
    elsewhere(monkeypatch)
    assert (driver := study.driver()) is not None
    assert driver.alive
    monkeypatch.setattr(lease_module, "DEAD_AFTER_S", -1.0)
    assert (driver := study.driver()) is not None
    assert not driver.alive


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_an_ended_process_that_nobody_waited_for_is_dead() -> None:
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 5
    while lease_module._start_time(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease_module._start_time(process.pid) == ""
    assert Path(f"/proc/{process.pid}").exists()
    process.wait()
    assert lease_module._start_time(os.getpid()).isdecimal()


def test_a_stranger_s_study_gets_no_lease(tmp_path: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path}/study.db"
    foreign = optuna.create_study(storage=url, study_name="held")
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match="not written by evomerge"):
        opened(url)
    assert foreign._storage.get_study_system_attrs(foreign._study_id) == {}
