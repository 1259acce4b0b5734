"""Jobs to workers in processes of their own, here or on a cluster (Ray, seen with 2.60).

The executor does one thing only: wait for any answer, move that slot of the pool on, hand out the next job.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from evomerge.errors import FailureKind
from evomerge.workers._ray_actor import cause_of_death, deaths, raise_as_raised
from evomerge.workers._ray_cluster import Share, start_or_join
from evomerge.workers._ray_pool import Pool, Slot, State
from evomerge.workers.executor import MakeWorker
from evomerge.workers.jobs import Failure, Job, Outcome, Seconds

__all__ = ["RayExecutor"]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Task:
    """A job in flight, and how many workers died while they ran it."""

    job: Job
    deaths: int = 0


@dataclass(eq=False)
class _Tasks:
    """Jobs in flight by slot, and jobs to be run: first those whose worker died, then the caller's queue."""

    queue: deque[Job]
    again: deque[_Task] = field(default_factory=deque)
    running: dict[Slot, _Task] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.again) + len(self.queue)

    def next(self) -> _Task:
        return self.again.popleft() if self.again else _Task(self.queue.popleft())


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
    - ``max_attempts``: a job during which a worker died goes to another one, until it has cost this many
      workers: then it fails with ``WORKER_DIED``. Workers that die while starting, building or idle are
      replaced and count against no job (one that has been idle for a second is pinged before its next job;
      one that dies in that second may count against the job).

    Workers for which no resources are free wait without holding up the others, and join when some are.
    """

    make_worker: MakeWorker
    count: int
    _: KW_ONLY
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    address: str | None = None
    timeout_s: float | None = None
    max_attempts: int = 2
    threads: int = 1
    _pool: Pool = field(init=False, repr=False)
    _active: Generator[Outcome] | None = field(default=None, init=False, repr=False)
    _owns_ray: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if min(self.count, self.max_attempts, self.threads) < 1 or self.cpus_per_worker <= 0:
            raise ValueError(f"count, max_attempts, threads and cpus_per_worker must be positive: {self}")
        share = Share(self.cpus_per_worker, self.gpus_per_worker)
        self._pool = Pool(self.make_worker, self.count, share, self.threads)

    def map(self, queue: deque[Job]) -> Iterator[Outcome]:
        """One outcome per job, as they finish; jobs are started in the order of ``queue``.

        Leaving the iterator early abandons what is in flight, and so do a new ``map`` and ``close``.

        Raises:
            UserError: as a worker raised it; or there are no resources for one worker, the cluster cannot be
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
            self._pool.close()
            if self._owns_ray:
                ray.shutdown()
        self._pool.slots.clear()
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
            self._pool.ensure_workers()
            while finished or tasks or tasks.running:
                # Again after each outcome: the caller writes it to a disk, and may have brought new jobs.
                self._hand_out(tasks)
                if finished:
                    yield finished.popleft()
                else:
                    finished.extend(self._step(tasks))
        finally:
            for slot in self._pool.within(State.RUNNING):
                self._pool.stop_worker(slot)

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        self._pool.slots.clear()  # Ray was shut down elsewhere: these handles are dead
        start_or_join(self.address, math.ceil(self.count * self.cpus_per_worker))
        self._owns_ray = True

    def _hand_out(self, tasks: _Tasks) -> None:
        for slot in self._pool.within(State.IDLE):
            if not tasks:
                return
            if slot.needs_ping:
                slot.ping()
            else:
                tasks.running[slot] = task = tasks.next()
                slot.run(task.job, self.timeout_s)

    def _step(self, tasks: _Tasks) -> list[Outcome]:
        """Waits for an answer or a deadline; the outcomes of what this finished."""
        answered = self._pool.wait_for_answers()
        # Only when no answer is waiting: a driver that was busy elsewhere must not call its workers late.
        advanced = [self._advance(slot, tasks) for slot in answered] or self._give_up_overdue(tasks)
        return [outcome for outcome in advanced if outcome]

    def _advance(self, slot: Slot, tasks: _Tasks) -> Outcome | None:
        """Advances ``slot`` by the answer it has; the outcome if that finished a job."""
        from ray.exceptions import RayTaskError

        try:
            answer: Any = slot.call.result() if slot.call else None
        except RayTaskError as error:
            self._pool.stop_worker(slot)
            raise_as_raised(error)
        except deaths() as error:
            return self._replace_dead(slot, cause_of_death(error), tasks)
        if slot.state is State.STARTING:
            slot.ping()
            return None
        slot.rest()
        task = tasks.running.pop(slot, None)
        return replace(answer, attempts=task.deaths + 1) if task else None

    def _replace_dead(self, slot: Slot, cause: str, tasks: _Tasks) -> Outcome | None:
        """Has a dead worker replaced; its job comes next again, or has failed."""
        self._pool.replace_dead(slot, cause)
        task = tasks.running.pop(slot, None)
        if task is None:
            _log.warning("A worker died and is replaced: %s", cause)
            return None
        task.deaths += 1
        if task.deaths < self.max_attempts:
            _log.warning("A worker died, job %s is tried again: %s", task.job.key, cause)
            tasks.again.append(task)
            return None
        reason = f"{task.deaths} workers died while they ran it; the last one: {cause}"
        return _failure(task, FailureKind.WORKER_DIED, reason, attempts=task.deaths)

    def _give_up_overdue(self, tasks: _Tasks) -> list[Outcome]:
        """Ends what has exceeded its time: jobs fail, and starting workers are no longer waited for."""
        overdue = self._pool.overdue()
        if any(slot.state is State.STARTING for slot in overdue):
            self._pool.start_without_the_rest()
        late = [(slot, tasks.running.pop(slot)) for slot in overdue if slot in tasks.running]
        return [self._time_out(slot, task) for slot, task in late]

    def _time_out(self, slot: Slot, task: _Task) -> Outcome:
        self._pool.replace(slot)
        reason = f"not finished after {self.timeout_s:g} seconds"
        return _failure(task, FailureKind.TIMEOUT, reason, attempts=task.deaths + 1)


def _failure(task: _Task, kind: FailureKind, reason: str, attempts: int) -> Outcome:
    _log.warning("Job %s failed: %s", task.job.key, reason)
    return Outcome(task.job.key, None, Failure(kind, reason), None, Seconds(), attempts)
