"""Which candidates next: strategies that ask and are told. All that they know, a replay can rebuild."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

from evomerge.errors import ExperimentError, StudyError, did_you_mean
from evomerge.recipe import Dimension
from evomerge.search.samplers._base import Sampler, SamplerSettings, Vector

__all__ = [
    "SAMPLERS",
    "DriftError",
    "Sampler",
    "SamplerSettings",
    "Vector",
    "make_sampler",
    "rejoin",
    "replay",
]

SAMPLERS: tuple[str, ...] = ("cma_es", "random")
"""Names that ``make_sampler`` knows."""

MIN_POPULATION = 4
"""Below, CMA-ES has no ranking to learn from."""


def make_sampler(settings: SamplerSettings, dimensions: Sequence[Dimension]) -> Sampler:
    """A fresh sampler over ``dimensions``.

    Raises:
        ExperimentError: No sampler has that name, a setting is out of range, or there is nothing to search.
    """
    _check(settings, dimensions)
    if settings.name == "cma_es":
        from evomerge.search.samplers.cma_es import CmaEs

        return CmaEs(settings, dimensions)
    if settings.name == "random":
        from evomerge.search.samplers.random_search import RandomSearch

        return RandomSearch(settings, dimensions)
    raise ExperimentError(
        "search.sampler", f"there is no sampler {settings.name!r}", did_you_mean(settings.name, SAMPLERS)
    )


class DriftError(StudyError):
    """The sampler proposes something else than the study recorded, be it in one bit."""


def replay(
    sampler: Sampler, history: Iterable[tuple[Sequence[Vector], Sequence[float]]], accepted: int = 0
) -> Sampler:
    """``sampler`` itself, after it has asked for and been told each generation of ``history``.

    The first ``accepted`` generations are told as they were recorded, whatever it proposes in their place.

    Raises:
        DriftError: It proposes something else in a later one.
    """
    for generation, (vectors, losses) in enumerate(history):
        _compare(sampler, vectors, generation, accepted)
        sampler.tell(vectors, losses)
    return sampler


def rejoin(sampler: Sampler, done: Mapping[int, Vector], generation: int, accepted: int = 0) -> None:
    """Makes ``sampler`` ask for the generation of which ``done`` (by index) is recorded.

    If that is one of the first ``accepted`` and it proposes something else, what is recorded stays and the
    rest is its own; where it proposes fewer, it repeats itself.

    Raises:
        DriftError: It proposes something else, and that was not accepted.
    """
    asked = sampler.ask()
    own = cycle(asked or done.values())
    whole = [v for v, _ in zip(own, range(max(len(asked), max(done) + 1)), strict=False)]
    for index, vector in done.items():
        whole[index] = vector
    _compare(sampler, whole, generation, accepted)


def _compare(sampler: Sampler, told: Sequence[Vector], generation: int, accepted: int) -> None:
    asked = sampler.ask()
    if list(told) == asked:
        return
    if generation < accepted:
        sampler.adopt(told)
        return
    pairs = enumerate(zip(told, asked, strict=False))
    first = next((i for i, (one, other) in pairs if one != other), min(len(told), len(asked)))
    raise DriftError("study", f"the sampler proposes another g{generation}.{first} than the study recorded")


def _check(settings: SamplerSettings, dimensions: Sequence[Dimension]) -> None:
    if not any(d.span[0] < d.span[1] for d in dimensions):
        raise ExperimentError(
            "recipe",
            "there is nothing to search: no value is a hole with more than one value",
            "Replace a value by a hole, such as {float: [0, 1]}.",
        )
    if settings.population is not None and settings.population < MIN_POPULATION:
        raise ExperimentError(
            "search.population", f"must be at least {MIN_POPULATION}, got {settings.population}"
        )
    if not (math.isfinite(settings.sigma) and 0 < settings.sigma <= 1):
        raise ExperimentError(
            "search.sigma", f"must be a fraction of the span, above 0 and up to 1, got {settings.sigma}"
        )
    if settings.seed < 0:
        raise ExperimentError("search.seed", f"must not be negative, got {settings.seed}")
    if settings.restarts is not None and settings.restarts < 0:
        raise ExperimentError("search.restarts", f"must not be negative, got {settings.restarts}")
    for start in settings.starts:
        if len(start) != len(dimensions) or not all(
            _may_be(d, c) for d, c in zip(dimensions, start, strict=True)
        ):
            raise ExperimentError("search.starts", f"{start} is no point of the search space")


def _may_be(dimension: Dimension, coordinate: float) -> bool:
    low, high = dimension.span
    whole = not dimension.integer or float(coordinate).is_integer()
    return low <= coordinate <= high and whole
