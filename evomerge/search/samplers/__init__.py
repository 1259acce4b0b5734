"""Which candidates next: strategies that ask and are told. All that they know, a replay can rebuild."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from evomerge.errors import ExperimentError, StudyError, did_you_mean
from evomerge.recipe import Dimension
from evomerge.search.samplers._base import Sampler, SamplerSettings, Vector

__all__ = ["SAMPLERS", "Sampler", "SamplerSettings", "Vector", "check_proposal", "make_sampler", "replay"]

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


def replay(
    sampler: Sampler,
    history: Iterable[tuple[Sequence[Vector], Sequence[float]]],
    recorded: Mapping[str, str] | None = None,
    current: Mapping[str, str] | None = None,
) -> Sampler:
    """``sampler`` itself, after it has asked for and been told each generation of ``history``.

    ``recorded`` and ``current`` are versions of libraries, named in the error.

    Raises:
        StudyError: The sampler proposes something else than was recorded, be it in one bit.
    """
    for generation, (vectors, losses) in enumerate(history):
        asked = sampler.ask()
        if len(asked) != len(vectors):
            raise _drift(f"generation {generation}", recorded or {}, current or {})
        for index, vector in enumerate(vectors):
            check_proposal(asked[index], vector, f"g{generation}.{index}", recorded, current)
        sampler.tell(asked, losses)
    return sampler


def check_proposal(
    asked: Vector,
    told: Sequence[float],
    name: str,
    recorded: Mapping[str, str] | None = None,
    current: Mapping[str, str] | None = None,
) -> None:
    """Nothing, if ``asked`` and ``told`` are equal bit for bit; ``name`` is the candidate's.

    Raises:
        StudyError: They are not; names the libraries whose versions changed.
    """
    if tuple(told) != tuple(asked):
        raise _drift(name, recorded or {}, current or {})


def _drift(name: str, recorded: Mapping[str, str], current: Mapping[str, str]) -> StudyError:
    names = dict.fromkeys((*recorded, *current))
    changed = [
        f"{n} {recorded.get(n, 'absent')} -> {current.get(n, 'absent')}"
        for n in names
        if recorded.get(n) != current.get(n)
    ]
    reason = f"the sampler proposes another {name} than the study recorded"
    if changed:
        return StudyError(
            "study",
            f"{reason}; since its first trial these versions changed: {', '.join(changed)}",
            "Install the recorded versions, or begin a new study.",
        )
    return StudyError(
        "study",
        f"{reason}, although no version of a library changed",
        "The study was altered, or written on another type of machine. Go on there, or begin a new study.",
    )


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
