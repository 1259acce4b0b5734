"""All faults of a recipe are told in one message, each with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support import MakeModel

from evomerge.engine.export import merge_to_disk
from evomerge.engine.recipe_faults import load_whole
from evomerge.engine.sources import open_sources
from evomerge.errors import RecipeError, UserError
from evomerge.recipe import SearchSpace, parse_recipe


def _ties(**changes: Any) -> dict[str, Any]:
    weights = [{"model": n, "parameters": {"weight": 1.0}} for n in ("one", "two")]
    return {"merge_method": "ties", "base_model": "base", "models": weights, **changes}


def _told(document: dict[str, Any], make_model: MakeModel, tmp_path: Path) -> str:
    folders = {n: str(make_model(n, seed)) for seed, n in enumerate(("base", "one", "two"))}
    with pytest.raises(UserError) as caught:
        merge_to_disk(parse_recipe(document), open_sources(folders), tmp_path / "out")
    return str(caught.value)


def test_wrong_names_and_values_of_all_places_are_told_at_once(make_model: MakeModel, tmp_path: Path) -> None:
    document = _ties(
        dtype="bfloat61",
        models=[
            {"model": "one", "parameters": {"wieght": 0.5, "density": 3}},
            {"model": "two", "parameters": {"weight": [1, "x"]}},
        ],
        parameters={"int8_mask": "maybe", "lambda": [{"filter": "mlp", "value": "y"}, {"value": 1}]},
    )
    told = _told(document, make_model, tmp_path)
    assert told.startswith("6 faults were found:")
    for line in (
        "dtype: 'bfloat61' is not a dtype of weights. Did you mean 'bfloat16'",
        "models[0].parameters.wieght: ties has no such parameter. Did you mean 'weight'?",
        "models[0].parameters.density: 3 is not between 0 and 1",
        "models[1].parameters.weight: expected a number, got 'x'",
        "parameters.int8_mask: expected true or false, got 'maybe'",
        "parameters.lambda: expected a number, got 'y'",
    ):
        assert f"\n  - {line}" in told


def test_a_fault_that_only_the_models_show_stands_beside_those_of_the_recipe(
    make_model: MakeModel, tmp_path: Path
) -> None:
    document = _ties(dtype="int7", models=[{"model": "one"}, {"model": "tow", "parameters": {"weight": 1}}])
    told = _told(document, make_model, tmp_path)
    assert "there is no model 'tow'" in told
    assert "dtype: 'int7' is not a dtype" in told


def test_a_single_fault_is_told_as_by_the_plan(make_model: MakeModel, tmp_path: Path) -> None:
    told = _told(_ties(parameters={"density": 1.5}), make_model, tmp_path)
    assert told == "parameters.density: 'density' of 'one': 1.5 is not between 0 and 1"


def test_a_value_that_counts_for_no_tensor_is_no_fault(make_model: MakeModel, tmp_path: Path) -> None:
    document = _ties(parameters={"density": [{"filter": "nowhere", "value": 7}, {"value": 1}]})
    folders = {n: str(make_model(n, seed)) for seed, n in enumerate(("base", "one", "two"))}
    assert merge_to_disk(parse_recipe(document), open_sources(folders), tmp_path / "out").tensors


def test_fields_that_do_not_exist_stand_beside_wrong_names_and_values(tmp_path: Path) -> None:
    stage = {**_ties(merge_method="slrep"), "name": "stage"}
    main = _ties(out_dtype="int7", base_modle="x", models=[{"modell": "one"}, {"model": "two"}])
    (tmp_path / "r.yml").write_text(yaml.safe_dump_all([stage, main]))
    with pytest.raises(RecipeError) as caught:
        load_whole(tmp_path / "r.yml")
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'r.yml'}: 5 fields are wrong:")
    for place in (
        "models[0].model: field required",
        "models[0].modell: there is no such field. Did you mean 'model'?",
        "base_modle: there is no such field. Did you mean 'base_model'?",
        "out_dtype: 'int7' is not a dtype",
        "stages[0].merge_method: there is no merge method 'slrep'. Did you mean 'slerp'",
    ):
        assert f"\n  - {place}" in told


def test_all_holes_that_are_malformed_are_told_at_once() -> None:
    holes = [{"float": [1, 0]}, {"int": [0, 1.5]}]
    models = [{"model": m, "parameters": {"weight": h}} for m, h in zip("ab", holes, strict=True)]
    with pytest.raises(RecipeError) as caught:
        SearchSpace({"merge_method": "linear", "models": models})
    assert "models[0].parameters.weight.float: the lower bound 1" in str(caught.value)
    assert "models[1].parameters.weight.int: expected two whole numbers" in str(caught.value)


def test_an_embedding_named_two_ways_is_told_once_and_in_the_recipes_words() -> None:
    tokens = {"x": {"source": {"kind": "zero", "token": "y"}}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(_ties(tokenizer={"source": "base", "tokens": tokens}))
    told = "tokenizer.tokens.x.source: a token source of kind 'zero' has no other fields"
    assert str(caught.value) == told
