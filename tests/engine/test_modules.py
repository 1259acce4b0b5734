"""Recipes with a list of models or slices for each module of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import save_model
from torch import Tensor

from evomerge.engine.export import MergeOptions, merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.errors import RecipeError
from evomerge.recipe import parse_recipe

CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "vocab_size": 12},
    "vision_config": {"num_hidden_layers": 2},
    "dtype": "float32",
}


def names() -> list[str]:
    vision = [f"vision_tower.encoder.layers.{i}.fc.weight" for i in range(2)]
    text = [f"language_model.model.layers.{i}.mlp.weight" for i in range(3)]
    rest = ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"]
    return [
        *vision,
        "vision_tower.patch_embedding.weight",
        "multi_modal_projector.linear.weight",
        *text,
        *rest,
    ]


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, dict[str, Tensor]]:
    made = {}
    for seed, model in enumerate(("one", "two")):
        generator = torch.Generator().manual_seed(seed)
        made[model] = {n: torch.randn(4, 3, generator=generator) for n in names()}
        save_model(tmp_path / model, made[model], CONFIG)
    return made


def merge(folder: Path, modules: dict[str, Any], **more: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    document = {"merge_method": "linear", "base_model": "one", "modules": modules, **more}
    recipe = parse_recipe(document)
    sources = open_sources({r: r for r in recipe.references()}, (folder,))
    merge_to_disk(recipe, sources, folder / "out", MergeOptions(overwrite=True))
    config = json.loads((folder / "out" / "config.json").read_text())
    return load_file(folder / "out" / "model.safetensors"), config


def mix(one: float, two: float) -> dict[str, Any]:
    return {"models": [{"model": m, "parameters": {"weight": w}} for m, w in (("one", one), ("two", two))]}


def test_each_module_is_merged_by_its_own_list(tmp_path: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    modules = {"vision_tower": mix(1, 0), "multi_modal_projector": mix(0, 1), "text_decoder": mix(0.25, 0.75)}
    out, _ = merge(tmp_path, modules)
    assert sorted(out) == sorted(names())
    for name, tensor in out.items():
        one, two = weights["one"][name], weights["two"][name]
        want = one if "vision" in name else two if "projector" in name else 0.25 * one + 0.75 * two
        torch.testing.assert_close(tensor, want, rtol=1e-6, atol=1e-6)


def test_parameters_of_a_module_come_before_those_of_the_recipe(
    tmp_path: Path, weights: dict[str, dict[str, Tensor]]
) -> None:
    models = [{"model": "one"}, {"model": "two"}]
    modules = {
        "vision_tower": {"models": models, "parameters": {"normalize": False}},
        "default": {"models": models},
    }
    out, _ = merge(tmp_path, modules, parameters={"weight": 2.0})
    for name, tensor in out.items():
        scale = 2.0 if "vision" in name else 1.0
        want = scale * (weights["one"][name] + weights["two"][name]) / (1 if "vision" in name else 2)
        torch.testing.assert_close(tensor, want, rtol=1e-6, atol=1e-6)


def test_a_module_can_be_sliced_alone(tmp_path: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    def piece(model: str, first: int, end: int) -> dict[str, Any]:
        return {"sources": [{"model": model, "layer_range": [first, end]}]}

    slices = [piece("one", 0, 2), piece("two", 1, 3)]
    modules = {"text_decoder": {"slices": slices}, "vision_tower": {"slices": [piece("two", 0, 1)]}}
    out, config = merge(tmp_path, modules, merge_method="passthrough", base_model=None)
    layer = "language_model.model.layers.{}.mlp.weight".format
    assert [n for n in out if "vision_tower.encoder" in n] == ["vision_tower.encoder.layers.0.fc.weight"]
    for i, (model, source) in enumerate([("one", 0), ("one", 1), ("two", 1), ("two", 2)]):
        assert torch.equal(out[layer(i)], weights[model][layer(source)])
    assert config["text_config"]["num_hidden_layers"] == 4
    assert config["text_config"]["layer_types"] == ["a", "b", "b", "c"]
    assert config["vision_config"]["num_hidden_layers"] == 1


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"vision_towr": mix(1, 1), "default": mix(1, 1)}, r"no module 'vision_towr'.*'vision_tower'"),
        ({"vision_tower": mix(1, 1)}, r"tensors are in none of the modules, such as.*'text_decoder'"),
        ({"text_decoder": mix(1, 1), "language_model": mix(1, 1)}, None),
        ({"vision_tower": mix(1, 1), "vision": mix(1, 1), "default": mix(1, 1)}, "no module 'vision'"),
    ],
)
def test_modules_that_do_not_fit_are_one_clear_message(
    tmp_path: Path, weights: dict[str, dict[str, Tensor]], modules: dict[str, Any], message: str | None
) -> None:
    if message is None:  # the language model below its name, everything else in the other
        merge(tmp_path, modules)
        return
    with pytest.raises(RecipeError, match=message):
        merge(tmp_path, modules)
