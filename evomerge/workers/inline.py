"""One worker in this process: nothing to start, nothing to copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from evomerge.workers.executor import MakeWorker, WorkerLike
from evomerge.workers.jobs import Job, Outcome

__all__ = ["InlineExecutor"]


class InlineExecutor:
    """Runs jobs here, one after the other, in the order of the queue.

    No job can be ended from outside: a time limit is the worker's own (``WorkerSpec.timeout_s``), and what
    kills a worker kills the search (which resumes from its study). ``make_worker`` is called for the first
    job, and what it raises comes out of ``map``.
    """

    def __init__(self, make_worker: MakeWorker) -> None:
        self._make_worker = make_worker
        self._worker: WorkerLike | None = None

    def map(self, queue: deque[Job]) -> Iterator[Outcome]:
        """One outcome per job, in the order of ``queue``; a job is taken when its outcome is asked for.

        Raises:
            UserError: as the worker raised it.
        """
        while queue:
            if self._worker is None:
                self._worker = self._make_worker()
            yield self._worker.run(queue.popleft())

    def close(self) -> None:
        """Closes the worker and releases it; may be called twice. A later ``map`` builds another."""
        worker, self._worker = self._worker, None
        close = getattr(worker, "close", None)
        if close is not None:
            close()
