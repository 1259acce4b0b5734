"""What passes between a study and its storage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.fitness.scores import Scores
from evomerge.recipe import Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["LEASE", "MAIN", "LeaseLost", "Row", "StoredScores"]

LEASE = "evomerge:lease"
"""System attribute of a study: who may write to it."""

MAIN = "evomerge"
"""User attribute of every trial of ours; no two trials have equal ones."""


class LeaseLost(Exception):  # noqa: N818 (no error of the storage)
    """Another driver has taken the study over; nothing was written."""


@dataclass(frozen=True)
class Row:
    """A finished trial as it is stored: what Optuna's tools show, and attributes that are plain JSON."""

    parameters: Mapping[str, tuple[BaseDistribution, Value]]
    score: float | None
    """``None`` for a failed trial."""
    attributes: Mapping[str, Any]
    number: int = -1


class StoredScores(Scores):
    """Scores that are read from their text when somebody looks at them.

    A search looks at few of them again, and the items of ten thousand trials are millions of objects.
    """

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    def __getattr__(self, name: str) -> Any:
        """``split`` and ``tasks``, the first time."""
        if name not in ("split", "tasks"):
            raise AttributeError(name)
        scores = Scores.from_document(json.loads(self._text))
        object.__setattr__(self, "split", scores.split)
        object.__setattr__(self, "tasks", scores.tasks)
        return getattr(scores, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return (self.split, self.tasks) == (other.split, other.tasks)

    def __hash__(self) -> int:
        return hash((self.split, self.tasks))

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredScores, (self._text,)
