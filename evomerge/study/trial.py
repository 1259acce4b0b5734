"""Trials, items that are added to them later, and results on other splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evomerge.fitness.scores import Scores
from evomerge.recipe import Value
from evomerge.workers.jobs import Failure, Seconds

__all__ = ["Basis", "MoreItems", "SplitResult", "Trial"]


@dataclass(frozen=True)
class Basis:
    """What the values of a trial were estimated from.

    ``items`` counts the answers that were scored, of all tasks together (``None``: the trial is from a
    release that did not note it; its scores name them). ``measure`` is what was measured of an item
    (``metric``: the task's own; ``answer_likelihood``), ``estimator`` how a value was made of that (``mean``:
    the objective of the tasks' values). ``standard_error`` has one entry for each value, or is ``None`` where
    it was not estimated.
    """

    items: int | None = None
    measure: str = "metric"
    estimator: str = "mean"
    standard_error: tuple[float, ...] | None = None

    @classmethod
    def of(cls, scores: Scores | None, measure: str = "metric") -> Basis:
        """All items of ``scores``, by ``measure``."""
        return cls(None if scores is None else sum(len(task.items) for task in scores.tasks), measure)


@dataclass(frozen=True)
class MoreItems:
    """An event in the log: a trial answered more items, and its values changed with that.

    ``scores`` holds the added items only, each task with the value that it has over all items by now;
    ``values`` and ``basis`` are those over all items.
    """

    values: tuple[float, ...]
    scores: Scores
    basis: Basis


@dataclass(frozen=True)
class Trial:
    """One finished evaluation. ``(generation, index)`` is its identity, not the order it finished in.

    Baselines have ``generation`` -1 and no vector. ``values`` are the objectives on search items, higher is
    better, empty for a failed trial; ``basis`` says what they rest on. ``parameters`` are the values of the
    recipe's holes. ``recipe`` is a digest: equal digests are equal recipes. ``cached_from`` names the trial
    whose result answered this one (one of the same recipe). ``config`` is a digest of configuration and
    tokenizer (``None`` where it is not known), ``same_weights_as`` the baseline that is the same model to the
    bit, so that its scores are those of this one. ``number`` is the study's own count, in the order of
    finishing (-1 until recorded).
    """

    kind: Literal["baseline", "candidate"]
    name: str
    generation: int
    index: int
    recipe: str
    vector: tuple[float, ...] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    scores: Scores | None = None
    failure: Failure | None = None
    fingerprint: str | None = None
    seconds: Seconds = field(default_factory=Seconds)
    cached_from: str | None = None
    attempts: int = 1
    config: str | None = None
    same_weights_as: str | None = None
    number: int = -1
    basis: Basis = field(default_factory=Basis)

    @property
    def score(self) -> float | None:
        """The single objective (the first, where there are several); ``None`` for a failed trial."""
        return self.values[0] if self.values else None

    @property
    def failed(self) -> bool:
        """Whether there is a failure instead of scores."""
        return self.failure is not None

    @property
    def place(self) -> tuple[int, int]:
        """Its position in the study's order."""
        return self.generation, self.index


@dataclass(frozen=True)
class SplitResult:
    """The result of a trial's model on the items of another split: either scores or a failure."""

    scores: Scores | None = None
    failure: Failure | None = None
    fingerprint: str | None = None
