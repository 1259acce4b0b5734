from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fakes import DISCRETE, MIXED

from evomerge.recipe import SearchSpace
from evomerge.search.baselines import baselines, starts


def changed(document: dict[str, Any], **fields: Any) -> SearchSpace:
    return SearchSpace({**copy.deepcopy(document), **fields})


def test_base_parents_average_and_ties_are_to_be_beaten() -> None:
    found = {b.name: b.recipe.document() for b in baselines(SearchSpace(MIXED))}
    assert list(found) == ["base", "math", "code", "uniform", "ties"]
    assert found["math"] == {
        "merge_method": "passthrough",
        "models": [{"model": "zoo/math"}],
        "dtype": "float32",
    }
    assert found["uniform"] == {
        "merge_method": "linear",
        "models": [{"model": f"zoo/{m}", "parameters": {"weight": 0.5}} for m in ("math", "code")],
        "dtype": "float32",
    }
    assert found["ties"] == {
        "merge_method": "ties",
        "base_model": "zoo/base",
        "models": [
            {"model": f"zoo/{m}", "parameters": {"weight": 1.0, "density": 0.5}} for m in ("math", "code")
        ],
        "dtype": "float32",
    }


def test_without_a_base_there_is_neither_base_nor_ties() -> None:
    assert [b.name for b in baselines(SearchSpace(DISCRETE))] == ["math", "code", "uniform"]


def test_models_that_are_given_count_instead_of_those_of_the_space() -> None:
    found = baselines(SearchSpace(MIXED), experts=("hub/a", "other/a", "hub/a/"), base_model="hub/b")
    assert [b.name for b in found] == ["base", "a", "a#2", "a#3", "uniform", "ties"]
    assert found[-1].recipe.base_model == "hub/b"


def test_a_single_expert_has_no_average() -> None:
    document = {**MIXED, "models": MIXED["models"][:1]}
    assert [b.name for b in baselines(SearchSpace(document))] == ["base", "math"]


def test_only_plain_values_are_taken_over_and_the_tokenizer_only_where_models_are_merged() -> None:
    space = changed(
        MIXED, dtype={"choice": ["float32", "bfloat16"]}, out_dtype="float16", tokenizer_source="union"
    )
    found = {b.name: b.recipe for b in baselines(space)}
    assert {r.dtype for r in found.values()} == {None}
    assert {r.out_dtype for r in found.values()} == {"float16"}
    assert [n for n, r in found.items() if r.tokenizer_source] == ["uniform", "ties"]


def test_a_search_starts_at_init_the_average_and_each_parent() -> None:
    space = SearchSpace(MIXED)
    assert [d.name for d in space.dimensions] == [
        "merge_method", "math.weight", "math.density", "code.weight", "lambda",
    ]  # fmt: skip
    decoded = [space.decode(v) for v in starts(space)]
    assert [(d["math.weight"], d["code.weight"]) for d in decoded] == [
        (0.75, 0.75),
        pytest.approx((0.5, 0.5)),
        (1.0, 0.0),
        (0.0, 1.0),
    ]
    assert [d["lambda"] for d in decoded] == pytest.approx([1.0] * 4)
    assert len({d["merge_method"] for d in decoded}) == 1


def test_weights_are_taken_to_their_bounds_and_to_whole_numbers() -> None:
    space = SearchSpace(
        {
            "merge_method": "linear",
            "models": [
                {"model": "a", "parameters": {"weight": {"float": [0.2, 0.4], "log": True}}},
                {"model": "b", "parameters": {"weight": {"int": [1, 3], "init": 3}}},
                {"model": "c", "parameters": {"weight": {"choice": [0.0, 1.0]}}},
            ],
        }
    )
    decoded = [tuple(space.decode(v).values()) for v in starts(space)]
    # the average and the first parent meet at the bounds: one start
    assert decoded[1:] == [pytest.approx((0.4, 1, 1.0)), pytest.approx((0.2, 1, 1.0))]


def test_gradients_filters_and_slices_count_as_weights_of_their_model() -> None:
    layers = [
        {"filter": "mlp", "value": {"float": [0, 1], "points": 2}},
        {"value": {"float": [0, 1]}},
    ]
    sources = [
        {"model": "a", "layer_range": [0, 4], "parameters": {"weight": layers}},
        {"model": "b", "layer_range": [0, 4], "parameters": {"weight": {"float": [0, 2]}}},
    ]
    space = SearchSpace({"merge_method": "linear", "slices": [{"sources": sources}]})
    assert [tuple(space.decode(v).values()) for v in starts(space)] == [
        (0.5, 0.5, 0.5, 1.0),
        (0.5, 0.5, 0.5, 0.5),
        (1.0, 1.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 1.0),
    ]


def test_a_weight_that_models_share_names_no_parent() -> None:
    shared = {"float": [0, 1.5], "name": "w"}
    space = changed(
        MIXED, models=[{"model": m, "parameters": {"weight": shared}} for m in ("zoo/math", "zoo/code")]
    )
    weights = [space.decode(v)["w"] for v in starts(space)]
    assert weights == [0.75, pytest.approx(0.5)]


def test_a_space_without_weights_starts_at_its_middle_only() -> None:
    space = SearchSpace(
        {
            "merge_method": "slerp",
            "base_model": "a",
            "models": [{"model": "a"}, {"model": "b"}],
            "parameters": {"t": {"float": [0, 1]}, "weight": {"int": [1, 2]}},
        }
    )
    assert starts(space) == ((0.5, 2.0),)


@given(
    low=st.floats(-2, 2),
    width=st.floats(1e-3, 3),
    whole=st.booleans(),
    points=st.one_of(st.none(), st.integers(2, 4)),
)
def test_every_start_is_a_point_of_its_space(
    low: float, width: float, *, whole: bool, points: int | None
) -> None:
    bounds = [round(low), round(low) + 1 + round(width)] if whole else [low, low + width]
    hole = {"int" if whole else "float": bounds, **({} if points is None else {"points": points})}
    models = [{"model": m, "parameters": {"weight": hole}} for m in ("a", "b", "c")]
    space = SearchSpace({"merge_method": "linear", "models": models})
    for vector in starts(space):
        for dimension, coordinate in zip(space.dimensions, vector, strict=True):
            assert dimension.span[0] <= coordinate <= dimension.span[1]
            assert not dimension.integer or coordinate.is_integer()


def test_stages_are_no_models_to_beat_but_their_models_are() -> None:
    space = SearchSpace(
        {
            "merge_method": "slerp",
            "base_model": "half",
            "models": [{"model": "half"}, {"model": "c"}],
            "parameters": {"t": {"float": [0, 1]}},
            "stages": [
                {
                    "name": "half",
                    "merge_method": "ties",
                    "base_model": "a",
                    "models": [{"model": "b", "parameters": {"weight": {"float": [0, 1]}}}],
                }
            ],
        }
    )
    assert [b.name for b in baselines(space)] == ["base", "c", "b", "uniform", "ties"]
    assert baselines(space)[0].recipe.references() == ("a",)
