"""Independent uniform draws: the sampler that any other has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count as numbers
from itertools import islice

import numpy as np

from evomerge.recipe import Dimension
from evomerge.search.samplers._base import SamplerSettings, Vector, check_told

__all__ = ["RandomSearch"]

POPULATION = 16


class RandomSearch:
    """Uniform over every span. Never converges; ``sigma`` and ``restarts`` mean nothing to it.

    What it draws is a function of the seed and the generation's number alone, so a lag changes nothing.
    """

    run = 0

    def __init__(self, settings: SamplerSettings, dimensions: Sequence[Dimension]) -> None:
        self.population = settings.population or POPULATION
        self._dimensions = tuple(dimensions)
        self._seed = settings.seed
        self._starts = settings.starts[: self.population // 2]
        self._asked: list[Vector] = []
        self._draws = self._all_draws()

    def ask(self, count: int) -> list[Vector]:
        """``count`` more candidates."""
        drawn = list(islice(self._draws, count))
        self._asked += drawn
        return drawn

    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Takes ``vectors`` for as many of those asked for longest ago."""
        self._asked[: len(vectors)] = vectors

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Nothing is learned."""
        check_told(self._asked, vectors, losses)
        del self._asked[: len(vectors)]

    def _all_draws(self) -> Iterator[Vector]:
        for generation in numbers():
            stream = np.random.default_rng([self._seed, generation])
            starts = self._starts if generation == 0 else ()
            yield from starts
            for _ in range(self.population - len(starts)):
                yield self._draw(stream)

    def _draw(self, stream: np.random.Generator) -> Vector:
        return tuple(
            float(stream.integers(int(d.span[0]), int(d.span[1]), endpoint=True))
            if d.integer
            else float(stream.random())
            for d in self._dimensions
        )
