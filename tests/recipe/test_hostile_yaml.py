"""Untrusted YAML: what grows, nests, executes or cannot be stored is refused, and quickly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RecipeError, did_you_mean
from evomerge.recipe import SearchSpace, load_recipe, parse_recipe, read_recipe, read_yaml
from evomerge.recipe.files import parse_yaml


def aliases(start: str, line: str, width: int = 10, depth: int = 12) -> str:
    lines = [f"a0: &a0 {start}"]
    lines += [f"a{i}: &a{i} " + line.format(", ".join([f"*a{i - 1}"] * width)) for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (aliases("[1, 2]", "[{}]"), "expands to more than"),
        (
            f"a: &a {{{', '.join(f'k{i}: 1' for i in range(3000))}}}\nb: {{<<: [{', '.join(['*a'] * 80)}]}}",
            "merges",
        ),
        ("a: &a {<<: *a}", "not valid YAML"),
        ("a: &a [*a]", "nested more than"),
        ("a: &a {b: *a, c: *a}", "more than"),
        ("a: " + "[" * 100 + "]" * 100, "nested more than 50"),
        ("a: " + "[" * 100_000, "not valid YAML"),
        ("a: " + "9" * 5000, "a number is too long"),
        ("a: 0x" + "f" * 5000, "a number is too long"),
        ("a: " + "1:" * 200_000 + "1", "a number is too long"),
        ("a: " + "1:" * 200_000 + "1.5", "a number is too long"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!bool perhaps", "not valid YAML"),
        ("a: !!float ''", "not valid YAML"),
        ("a: !!binary aGk=", "could not determine a constructor"),
        ("a: !!set {b}", "could not determine a constructor"),
        ("a: !!omap [b: 1]", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: !!python/name:os.system ''", "could not determine a constructor"),
        ('a: "x\\0y"', "no null character"),
        ('a: "\\ud800"', "half of a character"),
        ('"a\\0": 1', "no null character"),
        ("<<: 1", "only mappings can be merged"),
        ("a: &a 1\nb: {<<: [*a]}", "only mappings can be merged"),
        ("a: " + "x" * 2**20, "larger than 1 MiB"),
        ("a: 1\n" * 20_000, "more than 100 keys are given twice"),
        (
            aliases("[1, 2]", "[{}]")
            + "\n"
            + aliases("[1, 2]", "[{}]").replace("a", "b")
            + "\nx: *a11\nx: *b11",
            "expands to more than",
        ),
        ("a: &a 1\nb: &a 1", "duplicate anchor 'a'"),
    ],
)
def test_hostile_yaml_is_one_message_within_seconds(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(RecipeError, match=message):
        read_yaml(path)
    assert time.process_time() - began < 10


def test_merges_of_merges_do_not_grow() -> None:
    """PyYAML copies every key once for each way that leads to it: here, 10 to the power of 30."""
    assert parse_yaml(aliases("{x: 1}", "{{<<: [{}]}}", depth=31), "")["a30"] == {"x": 1}


def test_merged_mappings_keep_their_order_of_precedence() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}"
    assert parse_yaml(text, "")["c"] == {"x": 1, "y": 1, "z": 3}


def test_a_mapping_that_overrides_what_it_merges_may_be_merged_itself() -> None:
    text = "a: &a {x: 1}\nb: {deep: {deeper: &d {<<: *a, x: 2}}}\nc: {<<: *d, y: 3}"
    assert parse_yaml(text, "")["c"] == {"x": 2, "y": 3}


def test_a_date_is_a_text() -> None:
    assert parse_yaml("name: 2026-01-31", "") == {"name": "2026-01-31"}


def test_a_name_with_a_null_character_is_no_file() -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(Path("a\0b"))


def test_many_wrong_fields_are_told_quickly_and_briefly() -> None:
    began = time.process_time()
    with pytest.raises(RecipeError, match=r"and \d+ more") as caught:
        parse_recipe({"merge_method": "linear", "models": [{"model": i} for i in range(20_000)]})
    assert time.process_time() - began < 10
    assert len(str(caught.value).splitlines()) < 30


def test_a_very_long_word_is_not_compared_with_others() -> None:
    began = time.process_time()
    assert did_you_mean("ab" * 100_000, ["ba" * 100_000]).startswith("Known")
    assert time.process_time() - began < 5


def test_more_stages_than_anyone_needs_are_refused() -> None:
    stage = {"merge_method": "linear", "models": [{"model": "m"}]}
    stages = [{**stage, "name": f"s{i}"} for i in range(101)]
    with pytest.raises(RecipeError, match="stages"):
        parse_recipe({**stage, "stages": stages})


def test_a_vocabulary_cannot_be_padded_beyond_memory() -> None:
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "m"}],
        "tokenizer": {"pad_to_multiple_of": 10**12},
    }
    with pytest.raises(RecipeError, match="pad_to_multiple_of"):
        parse_recipe(recipe)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"float": [0, 10**400]}, "expected two numbers"),
        ({"float": [-1.7e308, 1.7e308]}, "expected two numbers"),
        ({"float": [0, float("nan")]}, "expected two numbers"),
        ({"int": [0, 2**60]}, "expected two whole numbers"),
    ],
)
def test_bounds_beyond_what_a_coordinate_can_tell_are_refused(weight: Any, message: str) -> None:
    document = {"merge_method": "linear", "models": [{"model": "m", "parameters": {"weight": weight}}]}
    with pytest.raises(RecipeError, match=message):
        SearchSpace(document)


def test_a_hole_is_no_recipe() -> None:
    with pytest.raises(RecipeError, match="for the whole recipe"):
        SearchSpace({"choice": [1, 2]})


def test_a_space_of_too_many_dimensions_is_refused() -> None:
    models = [
        {"model": f"m{i}", "parameters": {"weight": {"float": [0, 1], "points": 1000}}} for i in range(6)
    ]
    with pytest.raises(RecipeError, match="more than 5000 dimensions"):
        SearchSpace({"merge_method": "linear", "models": models})


@pytest.mark.parametrize("name", ["../../escape", "/tmp/escape", "..", "a\0b"])
def test_the_name_of_a_stage_is_no_path(name: str, tmp_path: Path) -> None:
    """Stages are merged in memory: their names reach no file."""
    stage = {"merge_method": "linear", "models": [{"model": "m"}], "name": name}
    recipe = parse_recipe({"merge_method": "linear", "models": [{"model": name}], "stages": [stage]})
    assert recipe.references() == ("m",)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_of_several_documents_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("name: a\n---\n- 1\n")
    with pytest.raises(RecipeError, match="expected a mapping"):
        load_recipe(path)


def test_a_document_of_many_unknown_fields_is_refused_at_once() -> None:
    began = time.process_time()
    with pytest.raises(RecipeError, match="fields are wrong"):
        parse_recipe({f"modell{i}": i for i in range(20_000)})
    assert time.process_time() - began < 20
