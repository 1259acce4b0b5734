"""What can be wrong with a recipe and its models: one clear message each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import MakeModel
from torch import Tensor

from evomerge.engine.inputs import Inputs
from evomerge.engine.layers import find_stacks
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError, RecipeError, UserError
from evomerge.recipe import parse_recipe


@pytest.fixture
def family(make_model: MakeModel) -> dict[str, str]:
    return {n: str(make_model(n, seed)) for seed, n in enumerate(("base", "one", "two"))}


def ties(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "one", "parameters": {"weight": 1}},
            {"model": "two", "parameters": {"weight": 1}},
        ],
    }
    return document | changes


def two(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"model": "one", "parameters": parameters}, {"model": "two", "parameters": {"weight": 1}}]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (ties(merge_method="tise"), r"no merge method 'tise'.*Did you mean 'ties'"),
        (ties(models=two({"wieght": 1})), r"models\[0\]\.parameters\.wieght.*Did you mean 'weight'"),
        (ties(models=two({})), r"ties needs a 'weight' of 'one'"),
        (ties(models=two({"weight": 1, "density": 1.5})), r"'density' of 'one'.*1\.5 is not between 0 and 1"),
        (ties(models=two({"weight": "much"})), r"'weight' of 'one': expected a number, got 'much'"),
        (ties(parameters={"normalize": 3}), r"'normalize': expected true or false, got 3"),
        (ties(dtype="bfloat61"), r"dtype: unsupported weight dtype 'bfloat61'.*bfloat16"),
        (ties(base_model=None), r"ties needs a base_model"),
        (ties(merge_method="slerp", parameters={"t": 0.5}), r"slerp merges exactly 1 model"),
        (ties(merge_method="model_stock", models=[{"model": "one"}]), r"model_stock merges at least 2"),
        (
            ties(merge_method="della", models=two({"weight": 1, "density": 0.1, "epsilon": 0.2})),
            r"density 0\.1 \+- epsilon 0\.2 must stay between 0 and 1",
        ),
        (
            {
                "merge_method": "passthrough",
                "slices": [{"sources": [{"model": "one", "layer_range": [1, 9]}]}],
            },
            r"layer_range \[1, 9\] goes beyond the 3 layers of 'one'",
        ),
    ],
)
def test_a_wrong_recipe_has_one_clear_message(
    document: dict[str, Any], message: str, family: dict[str, str]
) -> None:
    with pytest.raises(RecipeError, match=message):
        Inputs(open_sources(family)).plan(parse_recipe({k: v for k, v in document.items() if v is not None}))


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return change


def widen(tensors: dict[str, Tensor]) -> None:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:2]])


def add(tensors: dict[str, Tensor]) -> None:
    tensors["model.extra.weight"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (
            drop("model.layers.1.mlp.up_proj.weight"),
            {},
            r"1 tensors are missing:\n  - model\.layers\.1\.mlp\.up_proj\.weight in two",
        ),
        (add, {}, r"1 tensors are not in base:\n  - model\.extra\.weight in two"),
        (
            widen,
            {},
            r"2 tensors differ in shape:\n  - .*base \[40, 32\], .*two \[42, 32\]"
            r"(?s:.*)tokenizer: \{source: base\}",
        ),
        (
            None,
            {"num_hidden_layers": 2},
            r"differ in their number of layers: base has 3, one has 3, two has 2",
        ),
    ],
)
def test_models_that_do_not_fit_are_named(
    change: Any, config: dict[str, Any], message: str, family: dict[str, str], make_model: MakeModel
) -> None:
    other = {**family, "two": str(make_model("odd", 2, change=change, config=config))}
    with pytest.raises(CheckpointError, match=message):
        Inputs(open_sources(other)).plan(parse_recipe(ties()))


def test_a_filter_that_matches_nothing_is_a_warning_with_near_names(family: dict[str, str]) -> None:
    weight = [{"filter": "self_atn", "value": 0.2}, {"value": 1}]
    made = Inputs(open_sources(family)).plan(parse_recipe(ties(models=two({"weight": weight}))))
    assert any("'self_atn' matches no tensor" in w and "self_attn" in w for w in made.warnings)


def test_a_parameter_of_another_method_is_a_warning(family: dict[str, str]) -> None:
    document = ties(merge_method="task_arithmetic", models=two({"weight": 1, "density": 0.5}))
    made = Inputs(open_sources(family)).plan(parse_recipe(document))
    assert any("density has no effect" in w for w in made.warnings)


def test_every_error_is_a_user_error() -> None:
    assert issubclass(RecipeError, UserError)
    assert issubclass(CheckpointError, UserError)


@pytest.mark.parametrize(
    ("names", "config", "main", "depth"),
    [
        (
            ["model.layers.0.a.weight", "model.layers.1.a.weight", "model.norm.weight"],
            {"num_hidden_layers": 2},
            "model.layers.",
            2,
        ),
        (
            ["transformer.h.0.attn.weight", "transformer.h.1.attn.weight", "transformer.wte.weight"],
            {"n_layer": 2},
            "transformer.h.",
            2,
        ),
        (
            ["model.layers.0.experts.0.w", "model.layers.0.experts.1.w", "model.layers.0.experts.2.w"],
            {"num_hidden_layers": 1},
            "model.layers.",
            1,
        ),
        (
            ["encoder.layers.0.w", "encoder.layers.1.w", "decoder.layers.0.w"],
            {"num_hidden_layers": 2, "decoder_layers": 1},
            "decoder.layers.",
            1,
        ),
        (
            ["vision.layers.0.w", "vision.layers.1.w", "model.layers.0.w"],
            {"text_config": {"num_hidden_layers": 1}},
            "model.layers.",
            1,
        ),
        (["embed.weight"], {}, None, 0),
    ],
)
def test_layer_stacks_are_found_from_names(
    names: list[str], config: dict[str, Any], main: str | None, depth: int
) -> None:
    stacks = find_stacks(names, config)
    assert (stacks.main, stacks.depth) == (main, depth)
