"""How a search ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from evomerge.study.study import Trial

__all__ = ["Ending", "SearchResult"]


class Ending(StrEnum):
    """Why a search came to its end."""

    BUDGET = "budget"
    """All trials are done; validation and test as well."""
    CONVERGED = "converged"
    """The sampler had nothing left to propose; validation and test are done as well."""
    STOPPED = "stopped"
    """``should_stop`` returned true; the same call continues the search."""


@dataclass(frozen=True)
class SearchResult:
    """How a search ended. ``winner`` is the best finalist on validation items, once there is one."""

    ending: Ending
    winner: Trial | None
    candidates: int
    """Candidates in the study, of all runs."""
    evaluated: int
    """Jobs run by this call, baselines, validation and test included."""
