"""What every sampler promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Sampler", "SamplerSettings", "Vector", "check_told"]

Vector = tuple[float, ...]
"""Coordinates, one per dimension, each within ``Dimension.span``; whole numbers for ints and choices."""


@dataclass(frozen=True)
class SamplerSettings:
    """How to search; what is ``None`` is left to the sampler.

    ``sigma`` is the first step size as a fraction of each dimension's span. ``restarts`` is how often a
    converged search may start anew (``None``: as often as the budget allows). ``starts`` are vectors that
    stand first in generation 0, as they are, in their order, in at most half of it.
    """

    name: str = "cma_es"
    population: int | None = None
    sigma: float = 0.25
    seed: int = 0
    restarts: int | None = None
    starts: tuple[Vector, ...] = ()


class Sampler(Protocol):
    """Proposes generations of candidates; a deterministic function of its settings and of what it was told.

    It neither reads nor changes a global random stream.
    """

    @property
    def population(self) -> int:
        """Candidates in the generation that ``ask`` returns; 0 when the search has converged."""
        ...

    def ask(self) -> list[Vector]:
        """One generation, in an order that is part of the result; the same again until it is told.

        Empty when the search has converged and no restart is left.
        """
        ...

    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Takes ``vectors``, of any number, for the generation asked last; they are what is told next."""
        ...

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Learns from the generation asked last; ``losses`` (lower is better) in the order of ``vectors``.

        Neither argument is kept or changed.

        Raises:
            ValueError: ``vectors`` are not those asked last, or a loss is not finite.
        """
        ...


def check_told(asked: Sequence[Vector], vectors: Sequence[Vector], losses: Sequence[float]) -> None:
    """Nothing, if ``vectors`` are those ``asked`` and every loss is a finite number.

    Raises:
        ValueError: They are not.
    """
    if not asked or [tuple(v) for v in vectors] != list(asked):
        raise ValueError("told other vectors than those asked last, or told twice")
    if len(losses) != len(asked) or not all(math.isfinite(x) for x in losses):
        raise ValueError(f"told {len(losses)} losses for {len(asked)} vectors; each must be a finite number")
