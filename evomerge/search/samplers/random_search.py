"""Independent uniform draws: the sampler that any other has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count as numbers
from itertools import islice
from typing import ClassVar

import numpy as np
from pydantic import Field

from evomerge.recipe import Dimension
from evomerge.search.samplers.interface import (
    Sampler,
    SamplerPlan,
    SamplerSettings,
    Told,
    Vector,
    Whole,
    check_told,
)
from evomerge.search.samplers.registry import sampler

__all__ = ["RandomSearch", "RandomSettings"]


class RandomSettings(SamplerSettings):
    """Settings of ``random``."""

    population: Whole | None = Field(
        default=None,
        description="Candidates in a generation, at least 1.",
        json_schema_extra={"if_none": "16"},
    )


@sampler("random")
class RandomSearch(Sampler):
    """Uniform over every span; it never converges and does not use the values.

    What it draws is a function of the seed and the generation's number alone, so a lag changes nothing.
    """

    Settings: ClassVar[type[RandomSettings]] = RandomSettings
    most_objectives: ClassVar[int | None] = None

    def __init__(self, plan: SamplerPlan, dimensions: Sequence[Dimension]) -> None:
        self._population = plan.settings.population or self.default_population(len(dimensions))
        self._dimensions = tuple(dimensions)
        self._seed = plan.settings.seed
        self._starts = plan.starts[: max(1, self._population // 2)]
        self._asked: list[Vector] = []
        self._draws = self._all_draws()

    @staticmethod
    def default_population(dimensions: int) -> int:  # noqa: ARG004
        """16: the size of a generation only decides how often progress is reported."""
        return 16

    @property
    def population(self) -> int:
        """Candidates of a generation, which is the same throughout."""
        return self._population

    def ask(self, count: int) -> list[Vector]:
        """``count`` more candidates."""
        drawn = list(islice(self._draws, count))
        self._asked += drawn
        return drawn

    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Replaces as many of those asked for longest ago by ``vectors``."""
        self._asked[: len(vectors)] = vectors

    def tell(self, told: Sequence[Told]) -> None:
        """Checks that ``told`` are the vectors asked for; the values are not used."""
        check_told(self._asked, told, self.most_objectives)
        del self._asked[: len(told)]

    def _all_draws(self) -> Iterator[Vector]:
        for generation in numbers():
            stream = np.random.default_rng([self._seed, generation])
            starts = self._starts if generation == 0 else ()
            yield from starts
            for _ in range(self._population - len(starts)):
                yield self._draw(stream)

    def _draw(self, stream: np.random.Generator) -> Vector:
        return tuple(
            float(stream.integers(int(d.span[0]), int(d.span[1]), endpoint=True))
            if d.integer
            else float(stream.random())
            for d in self._dimensions
        )
