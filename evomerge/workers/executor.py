"""The one seam of the search: who runs jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from evomerge.workers.jobs import Job, Outcome

__all__ = ["Executor"]


class Executor(Protocol):
    """Runs jobs on one or more workers; owns retries, timeouts and the death of workers."""

    def map(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """One outcome per job, as they finish, in any order.

        A job that cannot be scored comes back as a failure; only a mistake of the user's (``UserError``)
        or a bug is raised.
        """
        ...

    def close(self) -> None:
        """Releases workers and their memory; may be called twice."""
        ...
