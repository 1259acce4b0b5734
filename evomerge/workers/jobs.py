"""Jobs for workers and their outcomes: plain values of some kilobytes, all that is sent between processes."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.errors import FailureKind
from evomerge.fitness.items import ItemSet, Measure
from evomerge.fitness.scores import Scores
from evomerge.recipe import Recipe

__all__ = ["Failure", "Job", "ModelDigest", "Outcome", "Seconds"]


@dataclass(frozen=True)
class ModelDigest:
    """All that decides the answers of a model: the fingerprint of its weights, its ``config_digest``."""

    fingerprint: str
    config: str


@dataclass(frozen=True)
class Job:
    """One model to make and score. ``key`` is the caller's name for it and comes back with the outcome."""

    key: str
    recipe: Recipe
    items: ItemSet
    measure: Measure = Measure.METRIC
    known: tuple[ModelDigest, ...] = ()
    """Models whose scores on these items, by this measure, the caller has: they are not scored again."""


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no scores."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True)
class Seconds:
    """Wall seconds that a worker spent on one job."""

    materialize: float = 0.0
    evaluate: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The result of a job: either ``scores`` or ``failure``, and the fingerprint of the weights scored.

    Where the model ``is_known``, of those that the job names, there is neither. ``config`` is the model's
    ``config_digest``.
    ``seconds`` is measured, so it differs from run to run and takes no part in comparisons of studies.
    """

    key: str
    scores: Scores | None
    failure: Failure | None
    fingerprint: str | None
    seconds: Seconds
    attempts: int = 1
    config: str | None = None
    is_known: bool = False

    @property
    def model(self) -> ModelDigest | None:
        """The model that was made, as far as it is known."""
        if self.fingerprint is None or self.config is None:
            return None
        return ModelDigest(self.fingerprint, self.config)
