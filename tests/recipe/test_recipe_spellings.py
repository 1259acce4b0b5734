"""Recipes as people write them: what is meant is read, what is ignored is said, and slips are errors."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.errors import RecipeError
from evomerge.methods import methods
from evomerge.recipe import Recipe, SearchSpace, dump_recipe, load_recipe, parse_recipe
from evomerge.recipe.dialect import MISPLACED, normalise
from evomerge.recipe.files import parse_yaml

PLAIN = """
merge_method: dare_ties
base_model: base
slices:
- sources:
  - {model: a, layer_range: [0, 4], parameters: {weight: 0.5, density: [0.1, 1]}}
  - {model: b, layer_range: [0, 4], parameters: {weight: [{filter: mlp, value: 0.001}, {value: 2}]}}
parameters: {normalize: true, rescale: false}
dtype: bfloat16
"""


def read(text: str, tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yml"
    path.write_text(text)
    return load_recipe(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.001", "1e-3"),
        ("0.001", "1E-3"),
        ("0.001", "'0.001'"),
        ("0.5", '"0.5"'),
        ("0.5", "5E-1"),
        ("0.5", "+.5"),
        ("value: 2", "value: 2."),
        ("normalize: true", "normalize: 'true'"),
        ("rescale: false", "rescale: 'False'"),
        ("[0.1, 1]", "['0.1', 1e0]"),
        ("[0, 4]", "[0.0, 4.0]"),
        ("[0, 4]", "['0', '4']"),
        ("dtype: bfloat16", "dtype: torch.bfloat16"),
        ("dtype: bfloat16", "dtype: BF16"),
        ("dare_ties", "DARE-TIES"),
        ("dare_ties", "Dare_Ties"),
        ("base_model: base", "base_model: base\ntokenizer: null\nmodels:"),
        ("base_model: base", "base_model: base\nmodels: []\nmodules: {}\ntokenizer_source: ''"),
    ],
)
def test_a_value_means_the_same_in_every_spelling(old: str, new: str, tmp_path: Path) -> None:
    recipe = read(PLAIN.replace(old, new), tmp_path)
    assert recipe == read(PLAIN, tmp_path)
    assert recipe.warnings == ()


@pytest.mark.parametrize(
    ("given", "meant"),
    [("half", "float16"), ("fp16", "float16"), ("fp32", "float32"), ("torch.float", "float32")],
)
def test_names_of_dtypes_from_torch_are_read(given: str, meant: str) -> None:
    recipe = parse_recipe({"merge_method": "linear", "models": [{"model": "a"}], "out_dtype": given})
    assert recipe.out_dtype == meant


@pytest.mark.parametrize("name", ["1e5", "0123", "1.5", "on", "No", "2026-01-31", "12:30", "1_000", "0x1f"])
def test_a_name_is_a_text_however_it_looks(name: str, tmp_path: Path) -> None:
    text = (
        f"merge_method: ties\nbase_model: {name}\nname: {name}\ntokenizer_source: {name}\n"
        f"models: [{{model: {name}, parameters: {{weight: [{{filter: {name}, value: 1}}]}}}}]"
    )
    recipe = read(text, tmp_path)
    assert recipe.models is not None
    assert {recipe.base_model, recipe.name, recipe.tokenizer_source, recipe.models[0].model} == {name}
    assert recipe.models[0].parameters["weight"][0]["filter"] == name
    space = parse_yaml(f"base_model: {{choice: [{name}, x]}}\nmodels: {{{name}: {name}}}", "")
    assert space == {"base_model": {"choice": [name, "x"]}, "models": {name: name}}


def test_an_anchor_of_a_name_stays_a_number_elsewhere() -> None:
    assert parse_yaml("token: &a 5\ntoken_id: *a", "") == {"token": "5", "token_id": 5}


def test_empty_sections_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    text = "merge_method: linear\nmodels: [{model: a, parameters: }]\nparameters:\ntokenizer: {tokens: }"
    bare = "merge_method: linear\nmodels: [{model: a}]\ntokenizer: {}"
    assert read(text, tmp_path) == read(bare, tmp_path)


@pytest.mark.parametrize(
    ("extra", "warning"),
    [
        ("w: &w 0.5", "w has no effect"),
        ("model1: &m a", "model1 has no effect"),
        ("x-note: 1", "x-note has no effect"),
        (".common: {}", ".common has no effect"),
        ("description: a merge", "description has no effect"),
        ("license: mit", "license has no effect"),
        ("architecture: x", "architecture has no effect"),
        ("allow_crimes: true", "Options of the command line"),
        ("dtype: bfloat16", "line 10: the key 'dtype' is given twice with the same value"),
        ("c: &c 1\nc: &d 2", "the key 'c' is given twice, for two anchors"),
    ],
)
def test_what_has_no_effect_is_a_warning(extra: str, warning: str, tmp_path: Path) -> None:
    recipe = read(PLAIN + extra + "\n", tmp_path)
    assert recipe == read(PLAIN, tmp_path)
    assert any(warning in text for text in recipe.warnings), recipe.warnings


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("dtype: float16", r"line 10: .*'dtype' is given twice with different values, first in line 9"),
        ("merge-method: ties", "Did you mean 'merge_method'"),
        ("tokeniser_source: base", "Did you mean 'tokenizer_source'"),
        ("weight: 1", "Put it under 'parameters'"),
        ("torch_dtype: float16", "no such field"),
        ("dtype: &x float16\nout_dtype: &y float16\nout_dtype: &z float32", "given twice"),
    ],
)
def test_a_slip_is_an_error(extra: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read(PLAIN + extra + "\n", tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "model_token", "model": "a", "token_id": -1}, r"source\.token_id: .* equal to 0, got -1$"),
        ({"kind": "none"}, r"source\.kind: .*'model_token' or 'zero', got 'none'$"),
        (
            {"kind": "model_token", "model": "a", "token": "x", "token_id": 1},
            r"one of 'token' and 'token_id'$",
        ),
    ],
)
def test_a_wrong_source_of_a_token_is_one_message_in_words_of_the_recipe(
    source: dict[str, Any], message: str
) -> None:
    tokenizer = {"source": "union", "tokens": {"<|im_end|>": {"source": source}}}
    with pytest.raises(RecipeError, match=message) as raised:
        parse_recipe({"merge_method": "linear", "models": [{"model": "a"}], "tokenizer": tokenizer})
    assert str(raised.value).startswith("tokenizer.tokens.<|im_end|>.source")


def test_every_parameter_beside_its_section_is_an_error() -> None:
    assert {name for method in methods() for name in method.parameters} <= MISPLACED
    for name in sorted(MISPLACED):
        with pytest.raises(RecipeError, match="Put it under 'parameters'"):
            parse_recipe({"merge_method": "linear", "models": [{"model": "a", name: 1}]})


def test_fields_that_mean_something_here_are_read() -> None:
    lora = {"path": "l", "revision": "r"}
    recipe = parse_recipe(
        {
            "merge_method": "dare_ties",
            "random_seed": "7",
            "base_model": {"model": {"path": "b", "revision": "v"}, "override_architecture": "X"},
            "models": [
                {"model": "a", "revision": "main", "lora": lora},
                {"model": {"model": "c", "lora": lora}},
            ],
        }
    )
    assert recipe.merged() == ("b@v", "a@main+l@r", "c+l@r")
    assert recipe.parameters == {"seed": 7}
    assert [text.split()[0] for text in recipe.warnings] == [
        "random_seed",
        "base_model.override_architecture",
        "models[0].revision:",
        "models[0].lora:",
    ]


def test_an_ignored_value_passes_on_to_the_next_scope_and_does_not_change_a_written_recipe(
    tmp_path: Path,
) -> None:
    recipe = read(PLAIN + "x-note: 1\n", tmp_path)
    written = yaml.safe_load(dump_recipe(recipe))
    assert parse_recipe(written) == recipe
    assert normalise(written) == (written, ())


@pytest.mark.parametrize(
    ("hole", "plain"),
    [
        ("{float: [1e-3, '0.5'], init: 1e-2, log: 'true'}", "{float: [0.001, 0.5], init: 0.01, log: true}"),
        ("{int: ['1', 4.0], init: 2.0}", "{int: [1, 4], init: 2}"),
        (
            "{float: [0, 1], points: 3.0, init: ['0', 5e-1, 1]}",
            "{float: [0, 1], points: 3, init: [0, 0.5, 1]}",
        ),
        ("{choice: ['true', 1e-1]}", "{choice: [true, 0.1]}"),
    ],
)
def test_holes_read_the_same_numbers(hole: str, plain: str) -> None:
    def space(text: str) -> SearchSpace:
        return SearchSpace(
            parse_yaml(f"merge_method: linear\nmodels: [{{model: a, parameters: {{weight: {text}}}}}]", "")
        )

    assert space(hole).dimensions == space(plain).dimensions


def test_a_hole_for_the_method_gives_names_that_are_written_as_mergekit_reads_them() -> None:
    document: dict[str, Any] = {
        "merge_method": {"choice": ["TIES", "dare-ties"], "init": "dare-ties"},
        "base_model": "b",
        "models": [{"model": "a"}],
        "x-note": 1,
    }
    space = SearchSpace(document)
    assert space.dimensions[0].choices == ("ties", "dare_ties")
    assert space.dimensions[0].init == "dare_ties"
    assert space.warnings == ("x-note has no effect: recipes have no such field",)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
    ],
)
def test_a_recipe_may_be_in_any_unicode_of_windows(encode: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_bytes(encode("# für\nmerge_method: linear\nmodels: [{model: ä}]\n"))
    assert load_recipe(path).merged() == ("ä",)
