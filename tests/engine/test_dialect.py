"""What MergeKit 0.1.5 does where its dialect is silent: unlisted bases, filters in slices, mixed dtypes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import LLAMA, llama_shapes, save_model
from torch import Tensor

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.engine.export import merge_to_disk
from evomerge.errors import CheckpointError
from evomerge.recipe import parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore")


def model(folder: Path, name: str, seed: int, dtype: torch.dtype = torch.float32, **more: Tensor) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=generator).to(dtype) for n, s in llama_shapes(LLAMA).items()}
    config = {**LLAMA, "dtype": str(dtype).removeprefix("torch.")}
    return save_model(folder / name, tensors | more, config)


def merged(folder: Path, document: dict[str, Any]) -> dict[str, Tensor]:
    recipe = parse_recipe(document)
    checkpoints = {name: open_checkpoint(folder / name) for name in recipe.merged()}
    result = merge_to_disk(recipe, checkpoints, folder / "out")
    assert TransformersModel(checkpoints).load(recipe) == result.fingerprint
    return load_file(folder / "out" / "model.safetensors")


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_a_base_that_is_not_listed_is_merged_by_methods_that_know_no_base(
    method: str, tmp_path: Path
) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        model(tmp_path, name, seed)
    document: dict[str, Any] = {"merge_method": method, "models": [{"model": m} for m in "ab"]}
    if method == "linear":
        document["parameters"] = {"weight": 1.0}
    found = merged(tmp_path, {**document, "base_model": "base"})
    listed = {**document, "models": [*document["models"], {"model": "base"}]}
    (tmp_path / "out").rename(tmp_path / "first")
    for name, tensor in merged(tmp_path, listed).items():
        assert torch.equal(found[name], tensor)


def test_a_filter_of_a_source_speaks_of_the_layers_of_that_source(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        model(tmp_path, name, seed)
    weights = [{"filter": "layers.1.", "value": 5}, {"value": 1}]
    sources = [
        {"model": "a", "layer_range": [1, 3], "parameters": {"weight": weights}},
        {"model": "b", "layer_range": [0, 2], "parameters": {"weight": 1}},
    ]
    found = merged(tmp_path, {"merge_method": "linear", "slices": [{"sources": sources}]})
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    name = "model.layers.{}.mlp.up_proj.weight"
    first = (5 * a[name.format(1)] + b[name.format(0)]) / 6
    second = (a[name.format(2)] + b[name.format(1)]) / 2
    torch.testing.assert_close(found[name.format(0)], first)
    torch.testing.assert_close(found[name.format(1)], second)


@pytest.mark.parametrize(
    ("of_base", "of_model", "expected"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_without_a_dtype_the_output_holds_the_dtypes_of_all_inputs(
    of_base: torch.dtype, of_model: torch.dtype, expected: torch.dtype, tmp_path: Path
) -> None:
    model(tmp_path, "base", 0, of_base)
    model(tmp_path, "a", 1, of_model)
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1.0}}],
    }
    assert {t.dtype for t in merged(tmp_path, document).values()} == {expected}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == str(expected).removeprefix("torch.")


def test_a_buffer_of_whole_numbers_is_copied_if_it_is_equal_and_refused_if_not(tmp_path: Path) -> None:
    model(tmp_path, "a", 0, counts=torch.tensor([10, 2**24 + 1]))
    model(tmp_path, "b", 1, counts=torch.tensor([10, 2**24 + 1]))
    document = {"merge_method": "linear", "models": [{"model": m} for m in "ab"], "parameters": {"weight": 1}}
    assert merged(tmp_path, document)["counts"].tolist() == [10, 2**24 + 1]
    model(tmp_path, "b", 1, counts=torch.tensor([10, 2**24 + 3]))
    (tmp_path / "out").rename(tmp_path / "first")
    with pytest.raises(CheckpointError, match=r"a: counts holds int64, not weights, and differs in b"):
        merged(tmp_path, document)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["della", "della_linear", "dare_ties", "ties", "breadcrumbs"])
def test_a_density_of_zero_leaves_the_base(method: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "a")):
        model(tmp_path, name, seed)
    document = {"merge_method": method, "base_model": "base", "models": [{"model": "a"}]}
    found = merged(tmp_path, document | {"parameters": {"weight": 0.7, "density": 0}})
    for name, tensor in load_file(tmp_path / "base" / "model.safetensors").items():
        assert torch.equal(found[name], tensor), name


def test_a_base_that_a_slice_leaves_out_takes_part_with_the_layers_of_its_first_source(
    tmp_path: Path,
) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        model(tmp_path, name, seed)
    sources = [{"model": "a", "layer_range": [1, 3]}, {"model": "b", "layer_range": [0, 2]}]
    document = {"merge_method": "ties", "base_model": "base", "parameters": {"weight": 1, "density": 0.5}}
    found = merged(tmp_path, document | {"slices": [{"sources": sources}]})
    (tmp_path / "out").rename(tmp_path / "first")
    listed = [*sources, {"model": "base", "layer_range": [1, 3]}]
    for name, tensor in merged(tmp_path, document | {"slices": [{"sources": listed}]}).items():
        assert torch.equal(found[name], tensor), name


def test_the_end_of_a_stack_is_merged_from_all_sources_of_its_last_slice(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        model(tmp_path, name, seed)
    first = {"sources": [{"model": "a", "layer_range": [0, 1]}]}
    last = {"sources": [{"model": m, "layer_range": [1, 3]} for m in "ab"]}
    document = {"merge_method": "linear", "parameters": {"weight": 0.5}, "slices": [first, last]}
    found = merged(tmp_path, document)
    a, b = (load_file(tmp_path / m / "model.safetensors") for m in "ab")
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.allclose(found["lm_head.weight"], (a["lm_head.weight"] + b["lm_head.weight"]) / 2)


def test_a_model_may_stand_in_a_slice_twice_with_other_layers(tmp_path: Path) -> None:
    model(tmp_path, "a", 0)
    sources = [
        {"model": "a", "layer_range": [0, 2], "parameters": {"weight": 3}},
        {"model": "a", "layer_range": [1, 3], "parameters": {"weight": 1}},
    ]
    found = merged(tmp_path, {"merge_method": "linear", "slices": [{"sources": sources}]})
    a = load_file(tmp_path / "a" / "model.safetensors")
    name = "model.layers.{}.mlp.up_proj.weight"
    for layer in range(2):
        expected = 0.75 * a[name.format(layer)] + 0.25 * a[name.format(layer + 1)]
        assert torch.allclose(found[name.format(layer)], expected, atol=1e-6)


def test_a_gradient_of_truth_values_may_be_written_in_numbers(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        model(tmp_path, name, seed)
    models = [{"model": m, "parameters": {"weight": 2}} for m in "ab"]
    found = merged(
        tmp_path, {"merge_method": "linear", "models": models, "parameters": {"normalize": [0, 1]}}
    )
    a, b = (load_file(tmp_path / m / "model.safetensors") for m in "ab")
    name = "model.layers.{}.mlp.up_proj.weight"
    layers = sum(name.format(i) in a for i in range(9))
    for i in range(layers):
        total = 2 * (a[name.format(i)] + b[name.format(i)])
        assert torch.allclose(found[name.format(i)], total / 4 if i == layers - 1 else total, atol=1e-5)
