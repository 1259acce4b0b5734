"""A sampler: the Halton sequence, which fills the space evenly."""

from collections.abc import Iterator, Sequence
from itertools import count as numbers
from itertools import islice
from typing import ClassVar

from pydantic import Field

from evomerge.recipe import Dimension
from evomerge.search.samplers import Sampler, SamplerPlan, SamplerSettings, Told, Vector, check_told, sampler

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)


class HaltonSettings(SamplerSettings):
    """Settings of ``halton``."""

    skip: int = Field(
        default=20, ge=0, description="Points at the beginning of the sequence that are left out."
    )


@sampler("halton")
class Halton(Sampler):
    """Up to ten continuous dimensions; it learns nothing from what it is told."""

    Settings: ClassVar[type[HaltonSettings]] = HaltonSettings
    kinds: ClassVar[frozenset[str]] = frozenset({"float"})
    most_objectives: ClassVar[int | None] = None

    def __init__(self, plan: SamplerPlan, dimensions: Sequence[Dimension]) -> None:
        settings = plan.settings
        assert isinstance(settings, HaltonSettings)
        self._population = settings.population or self.default_population(len(dimensions))
        self._starts = plan.starts[: max(1, self._population // 2)]
        self._bases = _PRIMES[: len(dimensions)]
        self._points = self._sequence(settings.skip + settings.seed)
        self._asked: list[Vector] = []

    @staticmethod
    def default_population(dimensions: int) -> int:
        """8."""
        return 8

    @property
    def population(self) -> int:
        """The same throughout."""
        return self._population

    def ask(self, count: int) -> list[Vector]:
        """The next points."""
        drawn = list(islice(self._points, count))
        self._asked += drawn
        return drawn

    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Takes ``vectors`` in place of those asked for longest ago."""
        self._asked[: len(vectors)] = vectors

    def tell(self, told: Sequence[Told]) -> None:
        """Checks them."""
        check_told(self._asked, told, self.most_objectives)
        del self._asked[: len(told)]

    def _sequence(self, first: int) -> Iterator[Vector]:
        yield from self._starts
        for number in numbers(first + 1):
            yield tuple(_radical_inverse(number, base) for base in self._bases)


def _radical_inverse(number: int, base: int) -> float:
    inverse, share = 0.0, 1.0
    while number:
        share /= base
        number, digit = divmod(number, base)
        inverse += share * digit
    return inverse
