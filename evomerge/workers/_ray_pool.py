"""Slots for workers: actors are started, pinged, replaced when they die, stopped.

A slot is one actor. Its life is STARTING (a process is found for it) -> BUILDING (the worker is made, or
says that it is still there) -> IDLE <-> RUNNING (a job). Every state but IDLE waits for the answer to one
call. A slot whose actor dies, in whatever state, gets another actor and starts over.
"""

from __future__ import annotations

import logging
import math
import time
from concurrent import futures
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from evomerge.errors import UserError
from evomerge.workers._ray_actor import new_actor
from evomerge.workers._ray_cluster import Share, check_resources, free
from evomerge.workers.executor import MakeWorker
from evomerge.workers.jobs import Job

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["Pool", "Slot", "State"]

_START_LIMIT_S = 60.0
"""How long a process may take to start, in seconds, before a warning or an error."""

_FAILED_STARTS = 3
"""A slot whose workers die this often in a row before they have run anything ends the search."""

_PING_AFTER_S = 1.0
"""A worker that has been idle for longer, in seconds, is asked whether it lives before its next job."""

_CLOSE_S = 5.0
"""How long idle workers may take to close themselves, in seconds, before they are killed."""

_log = logging.getLogger(__name__)


class State(Enum):
    """The state of a slot."""

    STARTING = auto()
    BUILDING = auto()
    IDLE = auto()
    RUNNING = auto()


@dataclass(eq=False)
class Slot:
    """One place for a worker. ``call`` is what it is busy with, ``since`` (monotonic seconds) since when."""

    actor: Any
    failed_starts: int = 0
    state: State = field(default=State.STARTING, init=False)
    call: futures.Future[Any] | None = field(default=None, init=False)
    since: float = field(default=0.0, init=False)
    limit_s: float = field(default=math.inf, init=False)

    @property
    def deadline(self) -> float:
        """When it is overdue; monotonic seconds."""
        return self.since + (_START_LIMIT_S if self.state is State.STARTING else self.limit_s)

    @property
    def needs_ping(self) -> bool:
        """Idle for so long that it may have died unseen."""
        return self.state is State.IDLE and time.monotonic() - self.since > _PING_AFTER_S

    def start(self) -> None:
        """Waits for its process."""
        self._begin(State.STARTING, self.actor.hello.remote())

    def ping(self) -> None:
        """Has the worker built, or say that it lives."""
        self._begin(State.BUILDING, self.actor.build.remote())

    def run(self, job: Job, limit_s: float | None) -> None:
        """Gives it ``job``, to be done within ``limit_s`` seconds."""
        self._begin(State.RUNNING, self.actor.run.remote(job), math.inf if limit_s is None else limit_s)

    def rest(self) -> None:
        """Marks it as free for a job."""
        self.failed_starts = 0
        self._begin(State.IDLE, None)

    def _begin(self, state: State, call: ObjectRef[Any] | None, limit_s: float = math.inf) -> None:
        self.state, self.since, self.limit_s = state, time.monotonic(), limit_s
        self.call = None if call is None else call.future()


@dataclass(eq=False)
class Pool:
    """Up to ``count`` workers that ``make_worker`` makes, each with a ``share`` of a node and ``threads``.

    Ray must be running whenever a worker is started.
    """

    make_worker: MakeWorker
    count: int
    share: Share
    threads: int
    slots: list[Slot] = field(default_factory=list, init=False)

    def within(self, state: State) -> list[Slot]:
        """The slots in ``state``."""
        return [slot for slot in self.slots if slot.state is state]

    def ensure_workers(self) -> None:
        """Pings idle workers, so that the dead are known before they get a job, and fills empty slots.

        Raises:
            UserError: there are no resources for one worker.
        """
        for slot in self.within(State.IDLE):
            slot.ping()
        if not self.slots:
            check_resources(self.count, self.share)
        for _ in range(self.count - len(self.slots)):
            self._start_worker()

    def wait_for_answers(self) -> list[Slot]:
        """Waits for answers; the slots that have one, or none if a deadline comes first."""
        busy = [slot for slot in self.slots if slot.call is not None]
        until = min((slot.deadline for slot in busy), default=math.inf)
        timeout = None if until == math.inf else max(0.0, until - time.monotonic())
        # Not `ray.wait`: what a signal handler raises while that waits is lost (SystemExit loses its code).
        calls = [slot.call for slot in busy if slot.call is not None]
        done, _ = futures.wait(calls, timeout, return_when=futures.FIRST_COMPLETED)
        return [slot for slot in busy if slot.call in done]

    def overdue(self) -> list[Slot]:
        """The slots whose deadline is over."""
        now = time.monotonic()
        return [slot for slot in self.slots if slot.deadline <= now]

    def replace_dead(self, slot: Slot, cause: str) -> None:
        """Replaces a worker that died of ``cause``.

        Raises:
            UserError: those before it died, too, and none has run a job.
        """
        failed_starts = 0 if slot.state is State.RUNNING else slot.failed_starts + 1
        self.stop_worker(slot)
        if failed_starts >= _FAILED_STARTS:
            raise UserError(
                "workers",
                f"a worker died {failed_starts} times before its first job: {cause}",
                "Most often there is too little memory for another worker, or a node without evomerge.",
            )
        self._start_worker(failed_starts)

    def replace(self, slot: Slot) -> None:
        """Kills a worker and puts a new one in its place."""
        self.stop_worker(slot)
        self._start_worker()

    def start_without_the_rest(self) -> None:
        """Keeps waiting for the workers that have not started yet, but without a deadline.

        Raises:
            UserError: none has started.
        """
        late = self.within(State.STARTING)
        started = len(self.slots) - len(late)
        if not started:
            raise UserError(
                "workers",
                f"no worker has started within {_START_LIMIT_S:g} seconds; each needs {self.share}, "
                f"and there is {free()} free",
                "Wait until others have left the cluster, or ask for less per worker.",
            )
        _log.warning(
            "%d of %d workers have started; the others join when resources are free", started, self.count
        )
        for slot in late:
            slot.since = math.inf

    def stop_worker(self, slot: Slot) -> None:
        """Kills a worker; its place is empty until the next ``ensure_workers``."""
        import ray

        self.slots.remove(slot)
        if ray.is_initialized():
            ray.kill(slot.actor)

    def close(self) -> None:
        """Lets idle workers close themselves, and kills all."""
        import ray

        closing = [slot.actor.close.remote() for slot in self.within(State.IDLE)]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
        for slot in list(self.slots):
            self.stop_worker(slot)

    def _start_worker(self, failed_starts: int = 0) -> None:
        slot = Slot(new_actor(self.make_worker, self.share, self.threads), failed_starts)
        slot.start()
        self.slots.append(slot)
