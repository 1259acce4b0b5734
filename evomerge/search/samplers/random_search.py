"""Independent uniform draws: the sampler that any other has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.recipe import Dimension
from evomerge.search.samplers._base import SamplerSettings, Vector, check_told

__all__ = ["RandomSearch"]

POPULATION = 16


class RandomSearch:
    """Uniform over every span. Never converges; ``sigma`` and ``restarts`` mean nothing to it."""

    def __init__(self, settings: SamplerSettings, dimensions: Sequence[Dimension]) -> None:
        self.population = settings.population or POPULATION
        self._dimensions = tuple(dimensions)
        self._seed = settings.seed
        self._starts = settings.starts[: self.population // 2]
        self._generation = 0
        self._asked: list[Vector] = []

    def ask(self) -> list[Vector]:
        """One generation; a function of the seed and the generation's number alone."""
        if not self._asked:
            stream = np.random.default_rng([self._seed, self._generation])
            starts = self._starts if self._generation == 0 else ()
            drawn = [self._draw(stream) for _ in range(self.population - len(starts))]
            self._asked = [*starts, *drawn]
        return list(self._asked)

    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Takes ``vectors`` for the generation asked last."""
        self._asked = list(vectors)

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Moves on to the next generation; nothing is learned."""
        check_told(self._asked, vectors, losses)
        self._asked = []
        self._generation += 1

    def _draw(self, stream: np.random.Generator) -> Vector:
        return tuple(
            float(stream.integers(int(d.span[0]), int(d.span[1]), endpoint=True))
            if d.integer
            else float(stream.random())
            for d in self._dimensions
        )
