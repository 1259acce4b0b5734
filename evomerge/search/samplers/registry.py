"""The registry of samplers: how a class is registered, and how a sampler is made from a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from evomerge.errors import ExperimentError
from evomerge.recipe import Dimension
from evomerge.registry import Registry
from evomerge.search.samplers.interface import (
    Sampler,
    SamplerPlan,
    SamplerSettings,
    free_dimensions,
)

__all__ = ["SAMPLERS", "first_population", "make_sampler", "sampler", "settings_with_defaults"]

SAMPLERS: Registry[type[Sampler]] = Registry("sampler", "evomerge.samplers")
"""Every registered sampler, by the name that ``search.sampler`` gives it."""

_Class = TypeVar("_Class", bound=type[Sampler])


def sampler(name: str) -> Callable[[_Class], _Class]:
    """A decorator that registers the class below it as the sampler ``name``.

    Its ``Settings`` are of that sampler alone: they say which sampler a plan means.
    """

    def register(made: _Class) -> _Class:
        if any(made.Settings is SAMPLERS[other].Settings for other in SAMPLERS.added if other != name):
            raise ValueError(f"the sampler {name!r} needs settings of its own")
        made.name = name
        SAMPLERS.add(name, made)
        return made

    return register


def make_sampler(plan: SamplerPlan, dimensions: Sequence[Dimension], objectives: int = 1) -> Sampler:
    """A fresh sampler over ``dimensions``, for candidates with so many values.

    Raises:
        ExperimentError: There is nothing to search, the sampler cannot handle it, or a start is not a point
            of the space.
    """
    made = _class_of(plan.settings)
    if not free_dimensions(dimensions):
        raise ExperimentError(
            "recipe",
            "there is nothing to search: no value is a hole with more than one value",
            "Replace a value by a hole, such as {float: [0, 1]}.",
        )
    _check_handles(made, dimensions, objectives)
    for start in plan.starts:
        if len(start) != len(dimensions) or not all(map(_may_be, dimensions, start)):
            raise ExperimentError("search.starts", f"{start} is not a point of the search space")
    return made(plan, dimensions)


def first_population(settings: SamplerSettings, dimensions: Sequence[Dimension]) -> int:
    """Candidates of the first generation."""
    free = len(free_dimensions(dimensions))
    return settings.population or _class_of(settings).default_population(free)


def settings_with_defaults(settings: SamplerSettings, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Every setting by name, with what stands for those that are not given."""
    filled = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra
        if filled[name] is None and isinstance(extra, dict):
            filled[name] = extra.get("if_none")
    return {**filled, "population": first_population(settings, dimensions)}


def _class_of(settings: SamplerSettings) -> type[Sampler]:
    return next(SAMPLERS[name] for name in SAMPLERS.added if SAMPLERS[name].Settings is type(settings))


def _check_handles(made: type[Sampler], dimensions: Sequence[Dimension], objectives: int) -> None:
    cannot = [d for d in dimensions if d.kind not in made.kinds]
    if cannot:
        others = [n for n, s in SAMPLERS.items() if {d.kind for d in dimensions} <= s.kinds]
        raise ExperimentError(
            "search.sampler",
            f"{made.name} cannot search holes of the kind {cannot[0].kind}, such as {cannot[0].name}",
            f"Samplers that can: {', '.join(others)}." if others else "Replace these holes by values.",
        )
    if made.most_objectives is not None and objectives > made.most_objectives:
        others = [n for n, s in SAMPLERS.items() if (s.most_objectives or objectives) >= objectives]
        raise ExperimentError(
            "search.sampler",
            f"{made.name} cannot search for {objectives} objectives at once",
            f"Samplers that can: {', '.join(others)}." if others else "",
        )


def _may_be(dimension: Dimension, coordinate: float) -> bool:
    low, high = dimension.span
    is_whole = not dimension.integer or float(coordinate).is_integer()
    return low <= coordinate <= high and is_whole
