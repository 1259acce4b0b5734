"""Recipes with holes: every vector is a recipe, and a hole in a wrong place is found at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.recipe import SearchSpace, dump_recipe, load_recipe, parse_recipe

DOCUMENT: dict[str, Any] = {
    "merge_method": {"choice": ["ties", "dare_ties"]},
    "base_model": "zoo/base",
    "models": [
        {
            "model": "zoo/math",
            "parameters": {
                "weight": {"float": [0, 1.5], "points": 3},
                "density": {"float": [0.1, 1], "init": 0.5},
            },
        },
        {
            "model": "zoo/code",
            "parameters": {"weight": [{"filter": "mlp", "value": {"float": [0, 1]}}, {"value": 1}]},
        },
    ],
    "parameters": {"lambda": {"float": [0.5, 2], "init": 1, "log": True}, "seed": {"int": [0, 9]}},
}
SPACE = SearchSpace(DOCUMENT)


def space(weight: Any, **more: Any) -> SearchSpace:
    return SearchSpace(
        {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": weight}}], **more}
    )


def test_dimensions_have_short_names_in_document_order() -> None:
    assert [d.name for d in SPACE.dimensions] == [
        "merge_method",
        "math.weight[0]",
        "math.weight[1]",
        "math.weight[2]",
        "math.density",
        "code.weight[mlp]",
        "lambda",
        "seed",
    ]


def test_short_names_that_collide_become_paths() -> None:
    twins = SearchSpace(
        {
            "merge_method": "linear",
            "models": [{"model": f"{f}/same", "parameters": {"weight": {"float": [0, 1]}}} for f in "ab"],
        }
    )
    assert [d.name for d in twins.dimensions] == [
        "models[0].parameters.weight",
        "models[1].parameters.weight",
    ]


vectors = st.tuples(*(st.floats(d.span[0] - 0.5, d.span[1] + 0.5) for d in SPACE.dimensions))


@given(vector=vectors)
def test_every_vector_is_a_recipe_within_bounds(vector: tuple[float, ...]) -> None:
    values = SPACE.decode(vector)
    recipe = SPACE.fill(values)
    assert parse_recipe(recipe.document()) == recipe
    for d in SPACE.dimensions:
        if d.kind == "choice":
            assert values[d.name] in d.choices
        else:
            assert d.low <= float(values[d.name]) <= d.high
            assert isinstance(values[d.name], int) == (d.kind == "int")


@given(vector=vectors)
def test_encoding_gives_the_values_back(vector: tuple[float, ...]) -> None:
    values = SPACE.decode(vector)
    again = SPACE.decode(SPACE.encode(values))
    for name, v in values.items():
        assert again[name] == (pytest.approx(v) if isinstance(v, float) else v)


@settings(max_examples=25)
@given(vector=vectors)
def test_a_filled_recipe_survives_its_file(
    vector: tuple[float, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("recipe") / "best.yml"
    recipe = SPACE.fill(SPACE.decode(vector))
    dump_recipe(recipe, path, comments=["a comment"])
    assert load_recipe(path) == recipe


def test_a_search_starts_at_init_or_in_the_middle() -> None:
    values = SPACE.decode(SPACE.start())
    assert values["lambda"] == pytest.approx(1)
    assert values["math.density"] == pytest.approx(0.5)
    assert values["code.weight[mlp]"] == pytest.approx(0.5)


def test_holes_with_one_name_share_one_value() -> None:
    shared = {"float": [0, 1], "name": "w"}
    both = SearchSpace(
        {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": shared}} for m in "ab"]}
    )
    assert len(both.dimensions) == 1
    recipe = both.fill({"w": 0.25})
    assert [s.parameters["weight"] for s in recipe.models or ()] == [0.25, 0.25]


def test_layer_ranges_and_models_can_be_searched() -> None:
    deep = SearchSpace(
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": {"choice": ["a", "b"]}, "layer_range": [0, {"int": [2, 8]}]}]},
                {"sources": [{"model": "b", "layer_range": [{"int": [2, 8]}, 12]}]},
            ],
        }
    )
    assert len(deep.dimensions) == 3
    assert sorted(deep.references()) == ["a", "b"]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"float": [2, 1]}, r"weight\.float: the lower bound 2 is not below the upper bound 1"),
        ({"float": [1, 1]}, "is not below"),
        ({"float": [0]}, r"expected two numbers \[low, high\]"),
        ({"float": [0, "x"]}, "expected two numbers"),
        ({"float": [0, float("inf")]}, "expected two numbers"),
        ({"int": [0, 1.5]}, "expected two whole numbers"),
        ({"float": [0, 1], "int": [0, 1]}, "exactly one of float, int and choice"),
        ({"float": [0, 1], "inti": 0.5}, "Did you mean .*'init'"),
        ({"float": [0, 1], "init": 2}, r"init: 2 does not lie within \[0, 1\]"),
        ({"float": [0, 1], "points": 1}, "points: expected a whole number from 2"),
        ({"float": [0, 1], "points": 3, "init": [0, 1]}, "init: has 2 values for 3 points"),
        ({"float": [0, 1], "log": True}, "log scale needs a lower bound above 0"),
        ({"int": [1, 5], "log": True}, "only a float hole"),
        ({"choice": []}, "expected a list"),
        ({"choice": [1, 1]}, "listed twice"),
        ({"choice": [1, 2], "init": 3}, "not one of the choices"),
        ({"float": [0, 1], "name": ""}, "name: expected a text"),
    ],
)
def test_a_malformed_hole_says_where_and_why(weight: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        space(weight)


def test_two_holes_of_one_name_must_agree() -> None:
    with pytest.raises(RecipeError, match="different bounds"):
        space({"float": [0, 1], "name": "w"}, parameters={"normalize": {"float": [0, 2], "name": "w"}})


@pytest.mark.parametrize("place", ["base_model", "dtype", "merge_method"])
def test_a_number_may_not_stand_for_a_word(place: str) -> None:
    with pytest.raises(RecipeError, match=f"{place}: a hole may not stand here"):
        SearchSpace({"merge_method": "linear", "models": [{"model": "a"}]} | {place: {"float": [0, 1]}})


def test_a_fraction_may_not_stand_for_a_layer() -> None:
    sources = [{"model": "a", "layer_range": [0, {"float": [1, 3]}]}]
    with pytest.raises(RecipeError, match=r"layer_range\[1\]: a hole may not stand here"):
        SearchSpace({"merge_method": "passthrough", "slices": [{"sources": sources}]})


def test_several_wrong_fields_come_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_text("merge_metod: ties\nmodels: [{model: a, parmeters: {}}]\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    text = str(caught.value)
    assert str(path) in text
    assert "Did you mean 'merge_method'?" in text
    assert "models[0].parmeters" in text
    assert "Did you mean 'parameters'?" in text


def test_a_recipe_and_its_space_share_nothing_that_can_be_changed() -> None:
    document = {
        "merge_method": "linear",
        "models": [
            {
                "model": "a",
                "parameters": {
                    "weight": {"float": [0, 1]},
                    "fixed": [{"filter": "mlp", "value": [1, 2]}],
                    "list": [3, 4],
                },
            }
        ],
    }
    made = SearchSpace(document)
    before = made.fill({"a.weight": 0.5}).key()
    recipe = made.fill({"a.weight": 0.5})
    assert recipe.models is not None
    parameters = recipe.models[0].parameters
    parameters["fixed"][0]["value"].append(9)
    parameters["list"].append(9)
    parameters["new"] = 1
    assert made.document == document
    assert made.fill({"a.weight": 0.5}).key() == before


def test_holes_that_yaml_shares_between_two_places_are_two_holes() -> None:
    shared = {"weight": {"float": [0, 1]}}
    models = [{"model": name, "parameters": shared} for name in "ab"]
    made = SearchSpace({"merge_method": "linear", "models": models})
    recipe = made.fill({"a.weight": 0.25, "b.weight": 0.75})
    assert [source.parameters["weight"] for source in recipe.models or ()] == [0.25, 0.75]
