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
    """Draws candidates; a deterministic function of its settings and of the sequence of calls.

    It neither reads nor changes a global random stream.
    """

    @property
    def population(self) -> int:
        """Candidates of a generation from here on; 0 when the search has converged and no restart is left."""
        ...

    @property
    def run(self) -> int:
        """How often it has started anew. What was drawn in an earlier run can no longer be told."""
        ...

    def ask(self, count: int) -> list[Vector]:
        """``count`` more candidates, drawn from what it has been told so far; none when it has converged."""
        ...

    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Takes ``vectors`` for as many of those asked for longest ago; they are what is told next."""
        ...

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Learns from a generation; ``losses`` (lower is better) in the order of ``vectors``.

        They are those asked for longest ago and not told yet, in the order of asking; others may have been
        asked for since. Neither argument is kept or changed.

        Raises:
            ValueError: ``vectors`` are others, or a loss is not finite.
        """
        ...


def check_told(asked: Sequence[Vector], vectors: Sequence[Vector], losses: Sequence[float]) -> None:
    """Nothing, if ``vectors`` are the first of those ``asked`` and every loss is a finite number.

    Raises:
        ValueError: They are not.
    """
    if not vectors or [tuple(v) for v in vectors] != list(asked[: len(vectors)]):
        raise ValueError("told other vectors than those asked for, or told twice")
    if len(losses) != len(vectors) or not all(math.isfinite(x) for x in losses):
        raise ValueError(
            f"told {len(losses)} losses for {len(vectors)} vectors; each must be a finite number"
        )
