"""The value of a parameter: scopes, filters, gradients."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.methods import Parameter
from evomerge.recipe import filters_of, lookup
from evomerge.recipe.values import check_setting

TENSOR = "model.layers.3.mlp.up_proj.weight"


def value(setting: Any, position: float = 0.0, *wider: Any) -> Any:
    return lookup("weight", TENSOR, position, [{"weight": s} for s in (setting, *wider)])


def test_the_narrowest_scope_wins() -> None:
    assert lookup("weight", TENSOR, 0, [{}, {"weight": 2}, {"weight": 3}]) == 2


def test_the_first_filter_that_matches_wins() -> None:
    setting = [
        {"filter": "self_attn", "value": 1},
        {"filter": "mlp", "value": 2},
        {"filter": "up_proj", "value": 3},
    ]
    assert value(setting) == 2


@pytest.mark.parametrize(
    "catch_all", [{"value": 7}, {"filter": "*", "value": 7}, {"filter": None, "value": 7}]
)
def test_an_entry_without_a_filter_catches_all(catch_all: dict[str, Any]) -> None:
    assert value([{"filter": "self_attn", "value": 1}, catch_all]) == 7


def test_filters_that_all_miss_pass_on_to_the_next_scope() -> None:
    assert value([{"filter": "self_attn", "value": 1}], 0.0, 5) == 5
    assert value([{"filter": "self_attn", "value": 1}]) is None


def test_a_single_mapping_is_a_list_of_one() -> None:
    assert value({"filter": "mlp", "value": 4}) == 4


@pytest.mark.parametrize(
    ("position", "expected"), [(0.0, 0.0), (0.25, 0.15), (0.5, 0.3), (0.75, 0.65), (1.0, 1.0)]
)
def test_a_gradient_is_linear_between_its_points(position: float, expected: float) -> None:
    assert value([0.0, 0.3, 1.0], position) == pytest.approx(expected)


@given(points=st.lists(st.floats(-10, 10), min_size=1, max_size=6), position=st.floats(0, 1))
def test_a_gradient_stays_between_its_extremes(points: list[float], position: float) -> None:
    found = value(points, position)
    assert min(points) - 1e-9 <= found <= max(points) + 1e-9


def test_words_take_the_point_below() -> None:
    assert [value(["a", "b", "c"], p) for p in (0.0, 0.4, 0.5, 0.99, 1.0)] == ["a", "a", "b", "b", "c"]


def test_a_gradient_of_truth_values_has_no_middle_however_they_are_written() -> None:
    normalize = Parameter("weight", bool, per_model=False, required=False, default=True, doc="")
    for points in ([False, True, True], [0, 1, 1], [0.0, 1, True]):
        found = [
            lookup("weight", TENSOR, position, [{"weight": points}], normalize.check)
            for position in (0.0, 0.3, 0.5, 0.7, 1.0)
        ]
        assert found == [False, False, True, True, True]
        assert all(isinstance(value, bool) for value in found)


def test_every_point_of_a_gradient_is_within_the_bounds() -> None:
    density = Parameter("weight", float, per_model=True, required=False, default=1.0, doc="", low=0, high=1)
    for points in ([0.5, 2.0], [-1, 2], [0.5, 0.5, 7]):
        with pytest.raises(ValueError, match="is not between 0 and 1"):
            lookup("weight", TENSOR, 0.5, [{"weight": points}], density.check)
    assert lookup("weight", TENSOR, 0.5, [{"weight": [0, 1]}], density.check) == 0.5


def test_a_gradient_of_whole_numbers_is_refused_between_them() -> None:
    count = Parameter("weight", int, per_model=False, required=False, default=1, doc="")
    assert lookup("weight", TENSOR, 0.5, [{"weight": [2, 4]}], count.check) == 3
    with pytest.raises(ValueError, match=r"expected a whole number, got 2\.5"):
        lookup("weight", TENSOR, 0.5, [{"weight": [2, 3]}], count.check)


@pytest.mark.parametrize(
    "setting",
    [
        [],
        [1, {"value": 2}],
        {"filter": "x"},
        {"vlaue": 1},
        [{"filter": 3, "value": 1}],
        [[1, 2]],
        {"value": {}},
    ],
)
def test_a_malformed_setting_is_refused(setting: Any) -> None:
    with pytest.raises(ValueError, match=r"value|filter|keys"):
        check_setting(setting)


def test_the_filters_of_a_setting() -> None:
    assert filters_of([{"filter": "mlp", "value": 1}, {"filter": "*", "value": 2}, {"value": 3}]) == ["mlp"]
    assert filters_of(3) == []
