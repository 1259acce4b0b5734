"""The interface between the search and what runs its jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from evomerge.workers.jobs import Job, Outcome

__all__ = ["Executor", "MakeWorker", "WorkerLike"]


class Executor(Protocol):
    """Runs jobs on one or more workers; owns retries, timeouts and the death of workers."""

    def map(self, queue: deque[Job]) -> Iterator[Outcome]:
        """One outcome per job, as they finish, in any order; ends when the queue is empty and no job runs.

        Workers take jobs from the left of ``queue``. It stays the caller's, who may append to it between two
        outcomes; a worker that becomes free takes its next job, if there is one, before the caller sees the
        outcome of the last. Leaving the iterator abandons the jobs that were taken and have no outcome.

        A job that cannot be scored comes back as a failure; only a mistake of the user's (``UserError``)
        or a bug is raised.
        """
        ...

    def close(self) -> None:
        """Releases workers and their memory; may be called twice."""
        ...


class WorkerLike(Protocol):
    """What fills a slot of an executor: it runs one job after the other.

    An outcome may depend on the job only, never on which worker ran it or on what that worker ran before.
    A worker with a ``close()`` is told when its slot is released in an orderly way; it may also be killed.
    """

    def run(self, job: Job) -> Outcome:
        """The outcome of ``job``; where the candidate fails, it holds the failure.

        Raises:
            UserError: a mistake of the user's; it ends the search.
        """
        ...


MakeWorker = Callable[[], WorkerLike]
"""Builds the worker, in the slot's own process; picklable. May raise ``UserError``. What all jobs share
is best loaded here: no time limit applies to it, and its failures do not count against a job."""
