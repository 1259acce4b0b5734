"""How samplers are registered, and plans that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from sampler_support import SPACES, choice, plan_for, real

from evomerge.errors import ExperimentError
from evomerge.recipe import Dimension
from evomerge.search.samplers import (
    SAMPLERS,
    RandomSearch,
    RandomSettings,
    Told,
    losses,
    make_sampler,
    registry,
    sampler,
)


class LineSettings(RandomSettings):
    """Of a sampler that a package adds."""

    smallest_population = 3


@pytest.fixture
def line() -> Iterator[str]:
    @sampler("line")
    class Line(RandomSearch):
        Settings = LineSettings
        kinds = frozenset({"float"})
        most_objectives = 2

    yield Line.name
    del registry.SAMPLERS._parts["line"]


@pytest.mark.parametrize(
    "start", [(0.5, 3.0, 0.0, 0.5), (1.3, 3.0, 0.0, 0.5, 0.0), (0.5, 3.5, 0.0, 0.5, 0.0)]
)
def test_a_start_outside_the_space_is_refused(start: tuple[float, ...]) -> None:
    with pytest.raises(ExperimentError, match="not a point of the search space"):
        make_sampler(plan_for("cma_es", (start,)), SPACES["mixed"])


@pytest.mark.parametrize("dimensions", [[], [choice("x", 1)]])
def test_a_space_with_a_single_point_is_refused(dimensions: list[Dimension]) -> None:
    with pytest.raises(ExperimentError, match="nothing to search"):
        make_sampler(plan_for("cma_es"), dimensions)


def test_a_kind_of_hole_that_a_sampler_cannot_handle_is_refused_with_those_that_can(line: str) -> None:
    make_sampler(plan_for(line), SPACES["floats"])
    with pytest.raises(ExperimentError) as caught:
        make_sampler(plan_for(line), [real("a"), choice("merge_method", 3)])
    assert str(caught.value) == (
        "search.sampler: line cannot search holes of the kind choice, such as merge_method. "
        "Samplers that can: cma_es, random."
    )


def test_more_objectives_than_a_sampler_can_handle_are_refused_with_those_that_can(line: str) -> None:
    make_sampler(plan_for(line), SPACES["floats"], objectives=2)
    with pytest.raises(ExperimentError, match=r"cma_es cannot search for 2 objectives .*: random, line\."):
        make_sampler(plan_for("cma_es"), SPACES["floats"], objectives=2)


def test_a_name_and_settings_are_of_one_sampler(line: str) -> None:
    with pytest.raises(ValueError, match="'line' is registered twice"):
        sampler(line)(SAMPLERS[line])
    with pytest.raises(ValueError, match="'dot' needs settings of its own"):
        sampler("dot")(SAMPLERS[line])


def told(scores: Sequence[float | None]) -> list[Told]:
    return [Told((0.0,), () if s is None else (s,), failed=s is None) for s in scores]


def test_losses_are_finite_whatever_failed() -> None:
    assert losses(told([0.5, None, -2.0])) == [-0.5, 3.0, 2.0]
    assert losses(told([None, None])) == [0.0, 0.0]
    assert losses([]) == []
