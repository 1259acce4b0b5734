"""All that is wrong with a recipe is told in one message, each fault with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ZOO
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.engine.export import merge_to_disk
from evomerge.engine.recipe_faults import load_whole, with_faults
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError, RecipeError, UserError

GOOD: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": str(ZOO / "base"),
    "models": [{"model": str(ZOO / "add"), "parameters": {"weight": 1, "density": 0.5}}],
}


def message(document: dict[str, Any], folder: Path) -> str:
    """What is said of a merge of ``document``."""
    (folder / "r.yml").write_text(yaml.safe_dump(document))

    def merge() -> None:
        recipe = load_whole(folder / "r.yml")
        merge_to_disk(recipe, open_sources({r: r for r in recipe.references()}), folder / "out")

    with pytest.raises(UserError) as caught:
        merge()
    assert not (folder / "out").exists()
    return str(caught.value)


def test_faults_of_names_bounds_and_dtypes_are_told_together(tmp_path: Path) -> None:
    document = {
        **GOOD,
        "models": [{"model": str(ZOO / "add"), "parameters": {"wieght": 1, "density": 3}}],
        "parameters": {"lamda": 1},
        "dtype": "bfloat",
    }
    told = message(document, tmp_path)
    assert told.startswith("4 faults were found:")
    for place in (
        "dtype:",
        "models[0].parameters.wieght:",
        "models[0].parameters.density:",
        "parameters.lamda:",
    ):
        assert f"\n  - {place}" in told


def test_wrong_fields_of_the_schema_and_unknown_names_are_told_together(tmp_path: Path) -> None:
    document = {**GOOD, "merge_method": "tiess", "models": [{"modle": "x"}], "slices": 3}
    told = message(document, tmp_path)
    for place in ("merge_method:", "slices:", "models[0]"):
        assert place in told
    assert "r.yml" in told


def test_one_fault_is_the_message_that_it_always_was(tmp_path: Path) -> None:
    told = message({**GOOD, "dtype": "bfloat"}, tmp_path)
    assert told.startswith("dtype: unsupported weight dtype 'bfloat'. Did you mean 'bfloat16'")


def test_a_fault_of_a_model_and_those_of_the_recipe_are_told_together(tmp_path: Path) -> None:
    document = {**GOOD, "merge_method": "tise"}
    document["models"] = [{"model": str(tmp_path / "nowhere"), "parameters": {"weight": 1}}]
    (tmp_path / "r.yml").write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "r.yml"), str(tmp_path / "out")])
    error = result.exception
    assert isinstance(error, UserError)
    assert "nowhere" in str(error)
    assert "there is no merge method 'tise'" in str(error)


def test_an_error_of_another_kind_stays_alone_where_the_recipe_is_right(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(yaml.safe_dump(GOOD))
    error = CheckpointError("a", "b")
    assert with_faults(error, load_whole(tmp_path / "r.yml")) is error


def test_wrong_holes_are_told_together(tmp_path: Path) -> None:
    from evomerge.recipe import SearchSpace

    parameters = {"weight": {"float": [2, 1]}, "density": {"int": [0.5, 2]}}
    with pytest.raises(RecipeError) as caught:
        SearchSpace({**GOOD, "models": [{"model": "a", "parameters": parameters}]})
    assert "weight" in str(caught.value)
    assert "density" in str(caught.value)
