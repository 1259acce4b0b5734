"""Real Ray, small workers. One Ray for the module; what ends Ray or the driver has a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from executor_support import ObedientWorker, by_key, job, make_dead_worker

import evomerge
from evomerge.errors import FailureKind, UserError
from evomerge.workers import _ray_cluster, _ray_pool
from evomerge.workers.ray_executor import RayExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

CPUS = 4


@pytest.fixture(scope="module")
def ray_is_up() -> Iterator[None]:
    """Ray as an executor starts it; the executors of the tests then use it."""
    first = RayExecutor(ObedientWorker, 1, cpus_per_worker=CPUS)
    assert by_key(first, job("score:1"))["score:1"].fingerprint == "weights 1"
    for slot in list(first._pool.slots):
        first._pool.stop_worker(slot)
    yield
    first.close()
    import ray

    assert not ray.is_initialized()


Make = Callable[..., RayExecutor]


@pytest.fixture
def make(ray_is_up: None) -> Iterator[Make]:
    made: list[RayExecutor] = []

    def make(*args: object, **options: object) -> RayExecutor:
        made.append(RayExecutor(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def test_two_workers_run_at_the_same_time_and_outcomes_come_as_they_finish(make: Make) -> None:
    executor = make(ObedientWorker, 2)
    keys = [o.key for o in executor.map(deque([job("sleep:2"), job("score:1"), job("score:2")]))]
    assert keys == ["score:1", "score:2", "sleep:2"]


def test_a_job_added_between_two_outcomes_starts_while_others_run(make: Make) -> None:
    queue, seen = deque([job("sleep:2"), job("score:1")]), []
    for outcome in make(ObedientWorker, 2).map(queue):
        seen.append(outcome.key)
        if outcome.key in ("score:1", "sleep:2"):
            queue.append(job(f"score:after {outcome.key}"))
    assert seen == ["score:1", "score:after score:1", "sleep:2", "score:after sleep:2"]


def test_who_falls_free_takes_the_next_job_before_the_caller_sees_an_outcome(make: Make) -> None:
    queue = deque([job("score:1"), job("score:2"), job("score:3")])
    outcomes = make(ObedientWorker, 1).map(queue)
    next(outcomes)
    assert [j.key for j in queue] == ["score:3"]
    outcomes.close()  # type: ignore[attr-defined]


def test_a_worker_that_dies_while_it_waits_for_new_jobs_counts_against_none(make: Make) -> None:
    queue, seen = deque([job("pid")]), []
    for outcome in make(ObedientWorker, 1, max_attempts=1).map(queue):
        seen.append(outcome)
        if len(seen) == 1:
            os.kill(int(outcome.fingerprint or ""), signal.SIGKILL)
            time.sleep(_ray_pool._PING_AFTER_S + 0.5)
            queue.append(job("score:1"))
    assert [(o.failure, o.attempts) for o in seen] == [(None, 1)] * 2


def test_a_worker_that_dies_idle_counts_against_no_job(make: Make) -> None:
    executor = make(ObedientWorker, 1, max_attempts=1)
    pid = by_key(executor, job("pid"))["pid"].fingerprint
    assert pid is not None
    os.kill(int(pid), signal.SIGKILL)
    outcome = by_key(executor, job("pid"))["pid"]
    assert outcome.failure is None
    assert outcome.attempts == 1
    assert outcome.fingerprint != pid


def test_a_job_that_takes_too_long_fails_and_its_worker_is_replaced(make: Make) -> None:
    executor = make(ObedientWorker, 1, timeout_s=1.5)
    started = time.monotonic()
    outcomes = by_key(executor, job("sleep:3600"), job("score:1"))
    assert time.monotonic() - started < 30
    late = outcomes["sleep:3600"]
    assert late.failure is not None
    assert late.failure.kind is FailureKind.TIMEOUT
    assert late.failure.reason == "not finished after 1.5 seconds"
    assert late.attempts == 1
    assert outcomes["score:1"].failure is None


def test_a_job_that_was_done_in_time_is_not_late_because_the_driver_was(make: Make) -> None:
    executor = make(ObedientWorker, 2, timeout_s=1.0)
    outcomes = executor.map(deque([job("score:1"), job("sleep:0.2")]))
    first = next(outcomes)
    time.sleep(1.5)
    assert first.failure is None
    assert [o.failure for o in outcomes] == [None]


def test_a_bug_keeps_its_type_and_the_traceback_of_the_worker(make: Make) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        by_key(make(ObedientWorker, 1), job("bug"))
    assert type(caught.value) is ZeroDivisionError
    assert "in bug" in str(caught.value.__cause__)


def test_workers_that_die_before_their_first_job_end_the_search(make: Make) -> None:
    with pytest.raises(UserError, match=r"died 3 times before its first job: .*SYSTEM_ERROR"):
        by_key(make(make_dead_worker, 1), job("score:1"))


def test_no_room_for_a_single_worker_is_said_at_once(make: Make) -> None:
    with pytest.raises(UserError, match=rf"needs 64 CPUs and 0 GPUs, .*nodes: {CPUS} CPUs"):
        by_key(make(ObedientWorker, 1, cpus_per_worker=64), job("score:1"))


def test_with_room_for_fewer_workers_those_do_the_work(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make(ObedientWorker, 3, cpus_per_worker=CPUS)
    with caplog.at_level(logging.WARNING, logger="evomerge"):
        assert len(by_key(executor, job("score:1"), job("score:2"))) == 2
        monkeypatch.setattr(_ray_pool, "_START_LIMIT_S", 0.0)
        assert len(by_key(executor, job("sleep:0.5"), job("score:3"))) == 2
    assert "There are resources for 1 of the 3 workers" in caplog.text
    assert caplog.text.count("1 of 3 workers have started") == 1


def test_a_cluster_taken_by_others_is_not_waited_for_in_vain(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = make(ObedientWorker, 1, cpus_per_worker=CPUS)
    by_key(others, job("score:1"))
    monkeypatch.setattr(_ray_pool, "_START_LIMIT_S", 1.0)
    with pytest.raises(UserError, match=r"no worker has started within 1 seconds; .* 0 CPUs and 0 GPUs free"):
        by_key(make(ObedientWorker, 1), job("score:1"))


def test_a_worker_gets_the_threads_asked_for_and_the_offline_setting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wanted = [job("environment:OMP_NUM_THREADS"), job("environment:HF_HUB_OFFLINE")]
    outcomes = by_key(make(ObedientWorker, 1, threads=3), *wanted)
    assert [outcomes[j.key].fingerprint for j in wanted] == ["3", "1"]


def test_a_second_map_and_a_close_end_the_map_before(make: Make) -> None:
    executor = make(ObedientWorker, 1)
    first = executor.map(deque([job("score:1"), job("sleep:3600")]))
    next(first)
    second = executor.map(deque([job("score:2"), job("score:3")]))
    assert next(second).key == "score:2"
    assert list(first) == []
    executor.close()
    assert list(second) == []


def test_control_c_while_waiting_leaves_at_once_and_the_executor_still_works(make: Make) -> None:
    executor = make(ObedientWorker, 1)
    outcomes = executor.map(deque([job("score:1"), job("sleep:3600")]))
    next(outcomes)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
    assert time.monotonic() - started < 5
    assert by_key(executor, job("score:2"))["score:2"].failure is None


def test_close_leaves_a_ray_that_was_there(make: Make) -> None:
    import ray

    executor = make(ObedientWorker, 1)
    by_key(executor, job("score:1"))
    executor.close()
    assert ray.is_initialized()


def test_no_jobs_start_nothing() -> None:
    executor = RayExecutor(ObedientWorker, 1, address="nowhere:1")
    assert list(executor.map(deque())) == []
    assert executor._pool.slots == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_an_error_of_the_users(address: str) -> None:
    with pytest.raises(UserError, match=rf"^workers.address: no Ray cluster can be joined at '{address}'"):
        _ray_cluster.start_or_join(address, cpus=1)


# ------------------------------------------------------------------ what ends Ray, or the driver

DRIVER = """
import json, signal, sys, time
from collections import deque
from evomerge.fitness.items import ItemSet
from evomerge.fitness.scores import Split
from evomerge.recipe import Recipe, Source
from evomerge.workers.jobs import Job, Outcome, Seconds
from evomerge.workers.ray_executor import RayExecutor

class Worker:  # of __main__: no worker can import it
    def run(self, job):
        print("a worker speaks")
        if job.key == "die":
            import os
            os.kill(os.getpid(), 9)
        if job.key == "hang":
            time.sleep(3600)
        return Outcome(job.key, None, None, None, Seconds())

def stop(*_):
    sys.exit("asked to end")

def main(*keys):
    signal.signal(signal.SIGTERM, stop)
    recipe = Recipe(merge_method="linear", models=(Source(model="a"),))
    executor = RayExecutor(Worker, 2)
    try:
        for outcome in executor.map(deque([Job(key, recipe, ItemSet(Split.SEARCH)) for key in keys])):
            print(json.dumps(outcome.key), flush=True)
        time.sleep(1)
    finally:
        executor.close()

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    return script


def start_driver(script: Path, *keys: str) -> subprocess.Popen[str]:
    root = str(Path(evomerge.__file__).parents[1])
    own = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    return subprocess.Popen(
        [sys.executable, str(script), *keys],
        env={**own, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def session(leader: int) -> list[str]:
    """The living processes of a session: all that a driver has started, whoever their parent is now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, _parent, _group, its_session = rest.split()[:4]
        if int(its_session) == leader and state not in "ZX":
            found.append(name)
    return found


def assert_session_ends(leader: int, within: float, but_for: tuple[str, ...] = ()) -> None:
    until = time.monotonic() + within
    while (left := set(session(leader)) - set(but_for)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def assert_no_telemetry_and_no_dashboard(leader: int) -> None:
    servers = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode()
            if os.getsid(int(process.name)) != leader or "ray" not in command:
                continue
            settings = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if "/gcs_server" in command or "/raylet\0" in command or "dashboard.py" in command:
            servers += 1
            assert b"RAY_USAGE_STATS_ENABLED=0" in settings
        if "dashboard.py" in command:  # it would send the telemetry, and does nothing else (2.60)
            assert "--disable-frontend" in command
            assert "--modules-to-load=UsageStatsHead" in command
    assert servers >= 2


@pytest.mark.slow
def test_after_close_no_process_is_left_and_stdout_is_the_programs_own(script: Path) -> None:
    driver = start_driver(script, "a", "die", "b")
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    assert sorted(out.split()) == ['"a"', '"b"', '"die"']
    assert session(driver.pid) == []


@pytest.mark.slow
def test_a_driver_that_is_stopped_in_mid_job_takes_all_processes_along(script: Path) -> None:
    drivers = [start_driver(script, "a", "hang") for _ in range(3)]
    for driver in drivers:
        assert driver.stdout is not None
        assert driver.stdout.readline() == '"a"\n', driver.communicate(timeout=60)[1]
        assert len(session(driver.pid)) > 3
    assert_no_telemetry_and_no_dashboard(drivers[0].pid)
    interrupted, terminated, killed = drivers
    os.killpg(interrupted.pid, signal.SIGINT)  # a terminal sends it to the whole group
    terminated.terminate()
    killed.kill()
    _, err = interrupted.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert session(interrupted.pid) == []
    _, err = terminated.communicate(timeout=60)
    assert "asked to end" in err  # by the driver's own handler, which Ray would replace
    assert session(terminated.pid) == []
    killed.communicate(timeout=60)
    # Two agents of Ray's own knock at its dead server for a minute (2.60) before they end too.
    assert_session_ends(killed.pid, within=10, but_for=("ray::DashboardA", "ray::RuntimeEnv"))
