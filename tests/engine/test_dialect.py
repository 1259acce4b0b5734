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
