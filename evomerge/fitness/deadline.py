"""A limit on the time of one candidate, checked during its evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass

from evomerge.errors import CandidateError, FailureKind

__all__ = ["Deadline"]


@dataclass(frozen=True)
class Deadline:
    """A limit of ``seconds`` from its construction on. It can end a candidate, but not change its result."""

    seconds: float
    at: float
    """``time.monotonic()``."""

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment in ``seconds`` from now."""
        return cls(seconds, time.monotonic() + seconds)

    def check(self) -> None:
        """Check that the time is not over.

        Raises:
            CandidateError: It is past; ``FailureKind.TIMEOUT``.
        """
        if time.monotonic() >= self.at:
            raise CandidateError(FailureKind.TIMEOUT, f"not finished after {self.seconds:g} seconds")
