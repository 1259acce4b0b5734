"""The interface of samplers, and what they are told."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, field_validator

from evomerge.recipe import Dimension, whole

__all__ = [
    "Sampler",
    "SamplerPlan",
    "SamplerSettings",
    "Told",
    "Vector",
    "Whole",
    "check_told",
    "free_dimensions",
    "is_same_point",
    "losses",
]

_ROUNDING = 1e-6

Vector = tuple[float, ...]
"""Coordinates, one per dimension, each within ``Dimension.span``; whole numbers for ints and choices."""

Whole = Annotated[StrictInt, BeforeValidator(whole)]
"""A whole number, also where YAML reads its spelling as a text or a float (``"8"``, ``1e2``)."""


@dataclass(frozen=True)
class Told:
    """The result of a vector: its ``values``, one per objective, higher is better; empty where it failed."""

    vector: Vector
    values: tuple[float, ...]
    failed: bool = False


class SamplerSettings(BaseModel):
    """Settings that every sampler has; a sampler adds its own in a subclass.

    They are fields of the ``search`` section of an experiment file. What is read, what ``check`` shows and
    what the documentation says follow from them: a description is a sentence, and ``json_schema_extra`` may
    have an ``if_none``, which says what ``None`` means.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    smallest_population: ClassVar[int] = 1

    population: Whole | None = Field(default=None, description="Candidates in a generation.")
    seed: Annotated[Whole, Field(ge=0)] = Field(default=0, description="Another seed, another search.")

    @field_validator("population")
    @classmethod
    def _large_enough(cls, population: int | None) -> int | None:
        if population is not None and population < cls.smallest_population:
            raise ValueError(
                f"must be at least {cls.smallest_population} with this sampler, got {population}"
            )
        return population


@dataclass(frozen=True)
class SamplerPlan:
    """A sampler to be made: its ``settings``, whose type says which, and the vectors it starts from.

    ``starts`` are the first candidates of generation 0, unchanged and in their order, at most half of it.
    """

    settings: SamplerSettings
    starts: tuple[Vector, ...] = ()


class Sampler(ABC):
    """Draws candidates; a deterministic function of its plan and of the sequence of calls.

    It neither reads nor changes a global random stream.
    """

    name: ClassVar[str]
    """What ``search.sampler`` calls it; set by the registry."""
    Settings: ClassVar[type[SamplerSettings]]
    kinds: ClassVar[frozenset[str]] = frozenset({"float", "int", "choice"})
    """Kinds of ``Dimension`` that it can handle."""
    most_objectives: ClassVar[int | None] = 1
    """Values of a candidate that it can handle; ``None``: any number."""

    run: int = 0
    """How often it has restarted. What was drawn before a restart can no longer be told."""

    @abstractmethod
    def __init__(self, plan: SamplerPlan, dimensions: Sequence[Dimension]) -> None:
        """Use ``make_sampler``, which checks the arguments."""

    @staticmethod
    @abstractmethod
    def default_population(dimensions: int) -> int:
        """Candidates in the first generation where the settings do not say, for so many free dimensions."""

    @property
    @abstractmethod
    def population(self) -> int:
        """Candidates of a generation from here on; 0 when the search has converged and no restart is left."""

    @abstractmethod
    def ask(self, count: int) -> list[Vector]:
        """``count`` more candidates, drawn from what it has been told so far; none when it has converged."""

    @abstractmethod
    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Replaces as many of those asked for longest ago by ``vectors``, which are told next."""

    def restate(self, vectors: Sequence[Vector]) -> None:
        """Replaces as many of those asked for longest ago by ``vectors``, which equal them but for rounding.

        A sampler that keeps more of a candidate than its vector overrides this, to keep that.
        """
        self.adopt(vectors)

    @abstractmethod
    def tell(self, told: Sequence[Told]) -> None:
        """Updates from a generation: the vectors asked for longest ago and not told yet, in that order.

        Others may have been asked for since. The argument is neither kept nor changed.

        Raises:
            ValueError: The vectors are others, or a value is not finite.
        """


def losses(told: Sequence[Told]) -> list[float]:
    """One finite loss per candidate of a single objective, lower is better.

    Minus its value; the worst of them plus 1 for the failed; all zero when all failed, which gives no update.
    """
    finite = [-t.values[0] for t in told if not t.failed]
    worst = max(finite) + 1.0 if finite else 0.0
    return [worst if t.failed else -t.values[0] for t in told]


def check_told(asked: Sequence[Vector], told: Sequence[Told], most_objectives: int | None = 1) -> None:
    """Check that ``told`` are the first of those ``asked``, each failed or with finite values.

    Raises:
        ValueError: They are not, or they have more values than the sampler can handle.
    """
    if not told or [tuple(t.vector) for t in told] != list(asked[: len(told)]):
        raise ValueError("told other vectors than those asked for, or told twice")
    counts = {len(t.values) for t in told if not t.failed}
    if len(counts) > 1 or 0 in counts or not all(math.isfinite(x) for t in told for x in t.values):
        raise ValueError("told a candidate that has neither failed nor as many finite values as the others")
    if most_objectives is not None and max(counts, default=0) > most_objectives:
        raise ValueError(f"told {max(counts)} values of a candidate, where {most_objectives} can be handled")


def is_same_point(left: Vector, right: Vector) -> bool:
    """Whether two vectors differ by no more than processors differ in the rounding of linear algebra.

    With CMA-ES that is up to 1e-8 of a span in 280 dimensions. It does not grow from generation to
    generation, as each is told as the study recorded it. Another version of a library differs by far more.
    """
    return len(left) == len(right) and all(abs(a - b) <= _ROUNDING for a, b in zip(left, right, strict=True))


def free_dimensions(dimensions: Sequence[Dimension]) -> list[int]:
    """Indices of the dimensions with more than one value."""
    return [i for i, d in enumerate(dimensions) if d.span[0] < d.span[1]]
