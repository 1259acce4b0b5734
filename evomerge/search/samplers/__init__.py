"""Which candidates next: strategies that draw and are told. All that they know, a replay can rebuild."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evomerge.errors import ExperimentError, did_you_mean
from evomerge.recipe import Dimension
from evomerge.search.samplers._base import Sampler, SamplerSettings, Vector

__all__ = [
    "SAMPLERS",
    "Sampler",
    "SamplerSettings",
    "Vector",
    "first_population",
    "make_sampler",
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


def first_population(settings: SamplerSettings, dimensions: Sequence[Dimension]) -> int:
    """Candidates of the first generation."""
    from evomerge.search.samplers.cma_es import default_population
    from evomerge.search.samplers.random_search import POPULATION

    free = sum(d.span[0] < d.span[1] for d in dimensions)
    return settings.population or (default_population(free) if settings.name == "cma_es" else POPULATION)


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
