"""Workers in processes of their own, here or on a cluster: the one door to Ray (seen with 2.60).

A slot is one actor. Its life is STARTING (a process is found for it) -> BUILDING (the worker is made, or
says that it is still there) -> IDLE <-> RUNNING (a job). Every state but IDLE waits for the answer to one
call, so the executor does one thing only: wait for any answer, move that slot on, hand out the next job.
A slot whose actor dies, in whatever state, gets another actor and begins anew.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent import futures
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evomerge.errors import FailureKind, UserError
from evomerge.workers.executor import MakeWorker, WorkerLike
from evomerge.workers.jobs import Failure, Job, Outcome, Seconds

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.exceptions import RayTaskError

__all__ = ["RayExecutor"]

_START_LIMIT_S = 60.0
"""How long a process may take to start, in seconds, before somebody is told."""

_FAILED_STARTS = 3
"""A slot whose workers die this often in a row before they have run anything ends the search."""

_CONNECT_S = 5.0

_GREET_AFTER_S = 1.0
"""A worker that has been idle for longer, in seconds, is asked whether it lives before its next job."""

_CLOSE_S = 5.0
"""How long idle workers may take to close themselves, in seconds, before they are killed."""

_OBJECT_STORE_BYTES = 100 * 2**20
"""Jobs and outcomes are some kilobytes; Ray's own default is 30 % of the machine's memory."""

_PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM")
"""Settings that must not differ between driver and workers; the nodes of a cluster have their own."""

_log = logging.getLogger(__name__)


class _State(Enum):
    STARTING = auto()
    BUILDING = auto()
    IDLE = auto()
    RUNNING = auto()


@dataclass(eq=False)
class _Task:
    """A job on its way, and how many workers have died of it."""

    job: Job
    deaths: int = 0


@dataclass(eq=False)
class _Tasks:
    """What is to be run: jobs that a worker died of first, then the caller's queue, which may grow."""

    queue: deque[Job]
    again: deque[_Task] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.again) + len(self.queue)

    def next(self) -> _Task:
        return self.again.popleft() if self.again else _Task(self.queue.popleft())


@dataclass(eq=False)
class _Slot:
    """One place for a worker. ``call`` is what it is busy with, ``since`` (monotonic seconds) since when."""

    actor: Any
    state: _State
    call: futures.Future[Any] | None
    since: float
    task: _Task | None = None
    failed_starts: int = 0

    def begin(self, state: _State, call: ObjectRef[Any] | None) -> None:
        self.state, self.since = state, time.monotonic()
        self.call = None if call is None else call.future()


@dataclass(eq=False)
class RayExecutor:
    """Runs jobs on ``count`` Ray actors, one job at a time each. Ray starts with the first ``map``.

    Without ``address`` a Ray of our own is started on this machine (a Ray that the process already runs
    is used), with enough CPU shares for ``count`` workers; with one, the cluster at that address is joined
    (``auto``, ``host:port``). Its nodes need evomerge, and the models under the same paths.

    - ``gpus_per_worker``, ``cpus_per_worker``: shares that Ray sets aside for a worker. A worker sees its
      GPUs, and only these, as ``cuda``; below 1, several workers share one. With 0 GPUs nothing is hidden.
    - ``threads``: OpenMP threads of a worker.
    - ``timeout_s``: a job not done after so many seconds fails with ``TIMEOUT`` and its worker is killed.
      The time counts from when a built worker gets the job, and there is no second attempt.
    - ``retries``: a job during which a worker died goes to another one, until it has cost this many
      workers: then it fails with ``WORKER_DIED``. Workers that die while starting, building or idle are
      replaced and count against no job (one that has been idle for a second is greeted before its next job;
      one that dies in that second may count against the job).

    Workers that find no room wait for it without holding up the others, and join in when there is some.
    """

    make_worker: MakeWorker
    count: int
    _: KW_ONLY
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    address: str | None = None
    timeout_s: float | None = None
    retries: int = 2
    threads: int = 1
    _slots: list[_Slot] = field(default_factory=list, init=False, repr=False)
    _active: Generator[Outcome] | None = field(default=None, init=False, repr=False)
    _owns_ray: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if min(self.count, self.retries, self.threads) < 1 or self.cpus_per_worker <= 0:
            raise ValueError(f"count, retries, threads and cpus_per_worker must be positive: {self}")

    def map(self, queue: deque[Job]) -> Iterator[Outcome]:
        """One outcome per job, as they finish; jobs are started in the order of ``queue``.

        Leaving the iterator early abandons what is in flight, and so do a new ``map`` and ``close``.

        Raises:
            UserError: as a worker raised it; or there is no room for one worker, the cluster cannot be
                reached, or workers die again and again before their first job.
            Exception: a bug in a worker, as the worker raised it; its cause shows the worker's traceback.
        """
        self._stop_active()
        self._active = self._run(_Tasks(queue))
        return self._active

    def close(self) -> None:
        """Ends all workers, and Ray too if it was started here; may be called twice."""
        import ray

        self._stop_active()
        if ray.is_initialized():
            closing = [slot.actor.close.remote() for slot in self._slots if slot.state is _State.IDLE]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
            for slot in list(self._slots):
                self._dismiss(slot)
            if self._owns_ray:
                ray.shutdown()
        self._slots.clear()
        self._owns_ray = False

    def _stop_active(self) -> None:
        if self._active is not None:
            self._active.close()
            self._active = None

    def _run(self, tasks: _Tasks) -> Generator[Outcome]:
        if not tasks:
            return
        finished: deque[Outcome] = deque()
        try:
            self._connect()
            self._muster()
            while finished or tasks or self._busy():
                # Again after each outcome: the caller writes it to a disk, and may have brought new jobs.
                self._hand_out(tasks)
                if finished:
                    yield finished.popleft()
                else:
                    finished.extend(self._step(tasks))
        finally:
            for slot in [s for s in self._slots if s.state is _State.RUNNING]:
                self._dismiss(slot)

    def _step(self, tasks: _Tasks) -> list[Outcome]:
        """Waits for an answer, or for somebody's time to be up; the outcomes of what this finished."""
        answered = self._answered()
        # Only when no answer is waiting: a driver that was busy elsewhere must not call its workers late.
        advanced = [self._advance(slot, tasks) for slot in answered] or self._give_up_overdue()
        return [outcome for outcome in advanced if outcome]

    def _busy(self) -> bool:
        return any(slot.task is not None for slot in self._slots)

    def _hand_out(self, tasks: _Tasks) -> None:
        now = time.monotonic()
        for slot in [s for s in self._slots if s.state is _State.IDLE]:
            if not tasks:
                return
            if now - slot.since > _GREET_AFTER_S:
                self._greet(slot)
            else:
                slot.task = tasks.next()
                slot.begin(_State.RUNNING, slot.actor.run.remote(slot.task.job))

    def _answered(self) -> list[_Slot]:
        busy = [slot for slot in self._slots if slot.call is not None]
        until = min((self._deadline(slot) for slot in busy), default=math.inf)
        timeout = None if until == math.inf else max(0.0, until - time.monotonic())
        # Not `ray.wait`: what a signal handler raises while that waits is lost (SystemExit loses its code).
        calls = [slot.call for slot in busy if slot.call is not None]
        done, _ = futures.wait(calls, timeout, return_when=futures.FIRST_COMPLETED)
        return [slot for slot in busy if slot.call in done]

    def _deadline(self, slot: _Slot) -> float:
        if slot.state is _State.STARTING:
            return slot.since + _START_LIMIT_S
        if slot.state is _State.RUNNING and self.timeout_s is not None:
            return slot.since + self.timeout_s
        return math.inf

    def _advance(self, slot: _Slot, tasks: _Tasks) -> Outcome | None:
        """Moves ``slot`` on by the answer it has; the outcome if that was a job's last word."""
        from ray.exceptions import RayTaskError

        try:
            answer: Any = slot.call.result() if slot.call else None
        except RayTaskError as error:
            self._dismiss(slot)
            _raise_as_raised(error)
        except _deaths() as error:
            return self._bury(slot, _cause_of_death(error), tasks)
        if slot.state is _State.STARTING:
            slot.begin(_State.BUILDING, slot.actor.build.remote())
            return None
        task, slot.task, slot.failed_starts = slot.task, None, 0
        slot.begin(_State.IDLE, None)
        return replace(answer, attempts=task.deaths + 1) if task else None

    def _bury(self, slot: _Slot, cause: str, tasks: _Tasks) -> Outcome | None:
        """Replaces a dead worker; its job comes next again, or has failed."""
        task = slot.task
        failed_starts = 0 if task else slot.failed_starts + 1
        self._dismiss(slot)
        if failed_starts >= _FAILED_STARTS:
            raise UserError(
                "workers",
                f"a worker died {failed_starts} times before its first job: {cause}",
                "Most often there is too little memory for another worker, or a node without evomerge.",
            )
        self._slots.append(self._hire(failed_starts))
        if task is None:
            _log.warning("A worker died and is replaced: %s", cause)
            return None
        task.deaths += 1
        if task.deaths < self.retries:
            _log.warning("A worker died, job %s is tried again: %s", task.job.key, cause)
            tasks.again.append(task)
            return None
        reason = f"{task.deaths} workers died while they ran it; the last one: {cause}"
        return _failed(task, FailureKind.WORKER_DIED, reason, attempts=task.deaths)

    def _give_up_overdue(self) -> list[Outcome | None]:
        """Ends what has run out of time: jobs fail, and starts are no longer waited for."""
        now = time.monotonic()
        overdue = [slot for slot in self._slots if self._deadline(slot) <= now]
        if any(slot.task is None for slot in overdue):
            self._start_without_the_rest()
        return [self._time_out(slot, slot.task) for slot in overdue if slot.task is not None]

    def _time_out(self, slot: _Slot, task: _Task) -> Outcome:
        self._dismiss(slot)
        self._slots.append(self._hire())
        reason = f"not finished after {self.timeout_s:g} seconds"
        return _failed(task, FailureKind.TIMEOUT, reason, attempts=task.deaths + 1)

    def _start_without_the_rest(self) -> None:
        late = [slot for slot in self._slots if slot.state is _State.STARTING]
        started = len(self._slots) - len(late)
        if not started:
            raise UserError(
                "workers",
                f"no worker has started within {_START_LIMIT_S:g} seconds; each needs {self._need()}, "
                f"and there is {_free()}",
                "Wait until others have left the cluster, or ask for less per worker.",
            )
        _log.warning("%d of %d workers have started; the others join when there is room", started, self.count)
        for slot in late:
            slot.since = math.inf

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        self._slots.clear()  # somebody shut Ray down: what is left are dead handles
        _start_or_join(self.address, math.ceil(self.count * self.cpus_per_worker))
        self._owns_ray = True

    def _muster(self) -> None:
        """Greets idle workers, so that the dead are known before they get a job, and fills empty slots."""
        for slot in self._slots:
            if slot.state is _State.IDLE:
                self._greet(slot)
        missing = self.count - len(self._slots)
        if missing == self.count:
            self._check_room()
        self._slots.extend(self._hire() for _ in range(missing))

    def _greet(self, slot: _Slot) -> None:
        # Not STARTING: its process is there, and the others need not wait for one.
        slot.begin(_State.BUILDING, slot.actor.build.remote())

    def _check_room(self) -> None:
        room = sum(_places(node, self.cpus_per_worker, self.gpus_per_worker) for node in _nodes())
        if room == 0:
            nodes = "; ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in _nodes())
            raise UserError(
                "workers",
                f"each worker needs {self._need()}, and no node has as much (nodes: {nodes or 'none'})",
                "Ask for less per worker, or add a node that has it.",
            )
        if room < self.count:
            _log.warning("There is room for %d of the %d workers asked for", room, self.count)

    def _need(self) -> str:
        return f"{self.cpus_per_worker:g} CPUs and {self.gpus_per_worker:g} GPUs"

    def _hire(self, failed_starts: int = 0) -> _Slot:
        import ray
        from ray import cloudpickle

        host: Any = ray.remote(_Host)
        actor = (
            host.options(
                num_cpus=self.cpus_per_worker,
                num_gpus=self.gpus_per_worker,
                max_restarts=0,  # a dead actor is ours to count and to replace
                max_task_retries=0,
                runtime_env={"env_vars": _environment(self.threads)},
            ).remote(cloudpickle.dumps(self.make_worker))  # type: ignore[no-untyped-call]
        )
        slot = _Slot(actor, _State.STARTING, None, 0.0, failed_starts=failed_starts)
        slot.begin(_State.STARTING, actor.hello.remote())
        return slot

    def _dismiss(self, slot: _Slot) -> None:
        import ray

        self._slots.remove(slot)
        if ray.is_initialized():
            ray.kill(slot.actor)


class _Host:
    """Lives in the actor's process: makes the worker there and hands it jobs."""

    def __init__(self, make_worker: bytes) -> None:
        # Still pickled: what goes wrong in unpickling is then an error of `build`, not a dead actor.
        self._make_worker = make_worker
        self._worker: WorkerLike | None = None

    def hello(self) -> None:
        pass

    def build(self) -> None:
        from ray import cloudpickle

        if self._worker is None:
            self._worker = cloudpickle.loads(self._make_worker)()

    def run(self, job: Job) -> Outcome:
        if self._worker is None:
            raise RuntimeError("a job came before its worker was built")
        return self._worker.run(job)

    def close(self) -> None:
        close = getattr(self._worker, "close", None)
        if close is not None:
            close()


def _failed(task: _Task, kind: FailureKind, reason: str, attempts: int) -> Outcome:
    _log.warning("Job %s failed: %s", task.job.key, reason)
    return Outcome(task.job.key, None, Failure(kind, reason), None, Seconds(), attempts)


def _start_or_join(address: str | None, cpus: int) -> None:
    """A Ray of our own on this machine, or the cluster at ``address``.

    Raises:
        UserError: the cluster cannot be reached.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    in_main = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        if address is not None:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # telemetry
            ray.init(
                address="local",  # not whatever RAY_ADDRESS names
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        reason = f"no Ray cluster can be joined at {address!r}: {str(error).strip().splitlines()[0]}"
        raise UserError(
            "workers.address",
            reason,
            "Is it running, with the same versions and the same token (RAY_AUTH_TOKEN)?",
        ) from error
    finally:
        if callable(on_sigterm):  # Ray puts its own in place, which only exits
            signal.signal(signal.SIGTERM, on_sigterm)
    # Ray reports each dead worker on the driver's *stdout*, where `--json` writes; `log_to_driver` does not
    # cover that, this switch (which Ray's own debugger uses) does.
    ray._private.worker._worker_logs_enabled = False  # noqa: SLF001


def _knock(address: str) -> None:
    """Raises ``OSError`` if nobody listens at ``host:port``; Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _environment(threads: int) -> dict[str, str]:
    """Environment variables of a worker's process, set before it imports anything."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed_on,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # workers share a machine; spinning threads cost each other a factor
        "PYTHONPATH": os.pathsep.join(_import_paths()),
    }


def _import_paths() -> list[str]:
    """Where the driver imports from, without what every environment has of its own."""
    own = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    paths = dict.fromkeys(Path(entry).resolve() for entry in sys.path)  # "" is the current folder
    return [str(p) for p in paths if p.is_dir() and p not in own and own.isdisjoint(p.parents)]


def _nodes() -> list[dict[str, float]]:
    """The resources of each living node, whether free or taken."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _places(node: dict[str, float], cpus: float, gpus: float) -> int:
    """How many workers of ``cpus`` and ``gpus`` an empty ``node`` holds."""
    by_cpu = node.get("CPU", 0.0) / cpus
    by_gpu = node.get("GPU", 0.0) / gpus if gpus else math.inf
    return math.floor(min(by_cpu, by_gpu) + 1e-9)


def _free() -> str:
    import ray

    free = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free"


def _deaths() -> tuple[type[Exception], ...]:
    """What Ray raises when the process or the node of an actor has gone."""
    from ray import exceptions

    return (
        exceptions.RayActorError,  # ActorDiedError, ActorUnavailableError
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )


def _cause_of_death(error: Exception) -> str:
    """Ray's reason without process ids and advice, so that one cause has one text."""
    found = re.search(r"dead because ([^.]+)\.(?: Worker exit type: (\w+))?", str(error))
    if found is None:
        return type(error).__name__
    because, exit_type = found.groups()
    return f"{because} ({exit_type})" if exit_type else str(because)


def _raise_as_raised(error: RayTaskError) -> NoReturn:
    """Raises what the worker raised, not Ray's wrapping of it."""
    cause = error.cause
    if isinstance(cause, UserError):
        raise cause from None
    if isinstance(cause, Exception) and cause is not error:
        raise cause from error
    raise error
