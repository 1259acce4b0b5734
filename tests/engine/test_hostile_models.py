"""Configurations, names and tokenizers of untrusted models: one message or no effect, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import MakeModel
from tokenizer_support import bpe, save

from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.engine.configuration import LayerOrigin, resize
from evomerge.engine.inputs import Inputs
from evomerge.engine.layers import find_stacks
from evomerge.errors import CheckpointError, RecipeError
from evomerge.methods import get_method
from evomerge.recipe import parse_recipe
from evomerge.tokenizers.chat_templates import chat_template, read_chat_template, write_chat_template
from evomerge.tokenizers.vocabulary import load_tokenizer, vocabulary_of


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"attention_types": [[["a"], 3]]}, {"attention_types": [[["a"], 10**12]]}),
        ({"attention_types": [[["a"], 3]]}, {"attention_types": [1]}),
        ({"attention_types": [[["a"], 10**12]]}, {"attention_types": [[["a"], 10**12]]}),
        ({"layer_types": ["a", "b", "c"]}, {"layer_types": []}),
        ({"pattern": "abc"}, {"pattern": ""}),
        ({"layers": {"²": 1}}, {"layers": {"²": 1}}),
        ({"layers": {"9" * 5000: 1}}, {"layers": {}}),
    ],
)
def test_what_a_configuration_says_of_layers_may_be_nonsense(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    config = {"num_hidden_layers": 3, **ours}
    resize(config, 3, [LayerOrigin(theirs, 0), LayerOrigin(theirs, 2)], has_encoder=False)
    assert config["num_hidden_layers"] == 2


@pytest.mark.parametrize("number", ["9" * 5000, "٣", "²", "00", "-1", "1e3"])
def test_a_part_of_a_name_that_is_no_index_of_a_layer(number: str) -> None:
    stacks = find_stacks(["layers.0.w", f"layers.{number}.w"], {})
    assert stacks.depths == {"layers.": 1}
    assert stacks.place(f"layers.{number}.w") is None


def test_a_stage_made_from_a_model_that_is_not_there(make_model: MakeModel) -> None:
    stage = {
        "name": "s",
        "merge_method": "linear",
        "models": [{"model": "nowhere", "parameters": {"weight": 1}}],
    }
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": "s"}], "stages": [stage]})
    with pytest.raises(RecipeError, match="there is no model 'nowhere'"):
        Inputs({"m": open_checkpoint(make_model("m"))}).plan(recipe)


@pytest.mark.parametrize("form", ["models", "slices"])
def test_a_module_needs_models(form: str) -> None:
    with pytest.raises(RecipeError, match=rf"modules\.default\.{form}"):
        parse_recipe({"merge_method": "linear", "modules": {"default": {form: []}}})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**400, -(10**400)])
def test_parameters_are_finite(value: float) -> None:
    for method, parameter in (("linear", "weight"), ("karcher", "max_iter")):
        with pytest.raises(ValueError, match="expected a number"):
            get_method(method).parameters[parameter].check(value)


def test_ids_beyond_any_embedding_are_refused(tmp_path: Path) -> None:
    folder = save(bpe([]), tmp_path / "m")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"]["zz"] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="its tokenizer has ids beyond"):
        vocabulary_of(load_tokenizer(folder))


def test_a_reader_that_panics_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled readers panic by an exception that is no Exception."""
    import transformers

    panic = type("PanicException", (BaseException,), {})

    def read(*_: object, **__: object) -> None:
        raise panic("index out of bounds")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", read)
    with pytest.raises(CheckpointError, match="index out of bounds"):
        vocabulary_of(load_tokenizer(tmp_path))


@pytest.mark.parametrize("text", ["{{ " + "9" * 5000 + " }}", "{{ " + "(" * 3000 + " }}", "{% if %}" * 30])
def test_a_template_that_cannot_be_parsed_is_one_message(text: str) -> None:
    with pytest.raises(RecipeError, match="chat_template"):
        chat_template(text)


@pytest.mark.parametrize(
    "settings", ["[1]", "1", '{"chat_template": [{"name": ["default"]}]}', '{"a":' * 5000]
)
def test_settings_of_a_tokenizer_may_be_anything(settings: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(settings)
    assert read_chat_template(tmp_path) is None
    try:
        write_chat_template(tmp_path, "{{ x }}")
    except CheckpointError:
        return
    assert read_chat_template(tmp_path) == "{{ x }}"


def test_nothing_is_written_by_a_plan(make_model: MakeModel, tmp_path: Path) -> None:
    """Names of tensors with ../ or / in them are names, and no files."""

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["../../escape/weight"] = tensors.pop("model.norm.weight")

    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": "m"}]})
    plan = Inputs({"m": open_checkpoint(make_model("m", change=rename))}).plan(recipe)
    assert "../../escape/weight" in [t.name for t in plan.tensors]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
