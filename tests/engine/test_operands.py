"""Which tensors of which models a method gets, by which names its parameters are found, in which dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import LLAMA, MakeModel, llama_shapes, save_model
from torch import Tensor

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.engine.export import merge_to_disk
from evomerge.engine.inputs import Inputs
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError, RecipeError
from evomerge.recipe import parse_recipe

NORM = "model.norm.weight"


@pytest.fixture
def family(make_model: MakeModel) -> dict[str, Path]:
    return {n: make_model(n, seed) for seed, n in enumerate(("base", "one", "two"))}


def merged(folders: dict[str, Path], out: Path, **document: Any) -> dict[str, Tensor]:
    checkpoints = open_sources({name: str(folder) for name, folder in folders.items()})
    merge_to_disk(parse_recipe(document), checkpoints, out)
    written = open_checkpoint(out)
    return {name: written.read(name).clone() for name in written.tensors}


def tensors_of(folder: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name).clone() for name in checkpoint.tensors}


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_a_base_model_that_is_not_listed_is_the_last_input(
    family: dict[str, Path], tmp_path: Path, method: str
) -> None:
    listed = [{"model": m} for m in ("one", "two", "base")]
    parameters = {"weight": 1.0}
    with_base = merged(
        family,
        tmp_path / "unlisted",
        merge_method=method,
        base_model="base",
        models=listed[:2],
        parameters=parameters,
        dtype="float32",
    )
    all_listed = merged(
        family,
        tmp_path / "listed",
        merge_method=method,
        base_model="base",
        models=listed,
        parameters=parameters,
        dtype="float32",
    )
    for name, weight in with_base.items():
        assert torch.equal(weight, all_listed[name]), name


def test_an_unlisted_base_model_without_a_weight_is_an_error_that_says_what_to_do(
    family: dict[str, Path],
) -> None:
    models = [{"model": m, "parameters": {"weight": 1}} for m in ("one", "two")]
    recipe = parse_recipe({"merge_method": "linear", "base_model": "base", "models": models})
    with pytest.raises(RecipeError, match=r"needs a 'weight' of 'base'.*list it with its own 'weight'"):
        Inputs(open_sources({n: str(f) for n, f in family.items()})).plan(recipe)


@pytest.mark.parametrize("where", ["source", "slice", "top"])
def test_a_filter_in_a_slice_is_matched_with_the_name_in_the_source(
    family: dict[str, Path], tmp_path: Path, where: str
) -> None:
    """Layer 1 of the sources is layer 0 of the output."""
    setting = {"weight": [{"filter": "layers.1.", "value": 3}, {"value": 1}]}
    sources: list[dict[str, Any]] = [{"model": m, "layer_range": [1, 2]} for m in ("one", "two")]
    slices: list[dict[str, Any]] = [{"sources": sources}]
    top = {"weight": 1}
    if where == "source":
        sources[0]["parameters"] = setting
    elif where == "slice":
        slices[0]["parameters"] = setting
    else:
        top = setting
    first = 3.0 if where == "source" else 1.0  # both weigh 3 otherwise, which is their mean
    out = merged(
        family, tmp_path / "out", merge_method="linear", slices=slices, parameters={**top}, dtype="float32"
    )
    one, two = tensors_of(family["one"]), tensors_of(family["two"])
    name = "model.layers.{}.mlp.up_proj.weight"
    expected = (first * one[name.format(1)].double() + two[name.format(1)].double()) / (first + 1)
    torch.testing.assert_close(out[name.format(0)].double(), expected, rtol=1e-5, atol=1e-6)


def small_models(tmp_path: Path, *dtypes: torch.dtype, **extra: Tensor) -> dict[str, Path]:
    """Llamas of the given dtypes, each ``2^-12`` above the one before in every weight."""
    names = ("base", "a", "b")
    return {
        names[n]: save_model(
            tmp_path / names[n],
            {
                name: torch.full(shape, 1 + n * 2**-12, dtype=dtype)
                for name, shape in llama_shapes(LLAMA).items()
            }
            | extra,
            LLAMA | {"dtype": str(dtype).removeprefix("torch.")},
        )
        for n, dtype in enumerate(dtypes)
    }


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.float32, torch.bfloat16), torch.float32),
        ((torch.bfloat16, torch.float16), torch.float32),
        ((torch.bfloat16, torch.bfloat16), torch.bfloat16),
        ((torch.float16, torch.float16), torch.float16),
        ((torch.bfloat16, torch.float8_e4m3fn), torch.float32),
    ],
)
def test_without_a_dtype_each_tensor_has_the_one_its_inputs_promote_to(
    tmp_path: Path, dtypes: tuple[torch.dtype, torch.dtype], expected: torch.dtype
) -> None:
    folders = small_models(tmp_path, *dtypes)
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1.0}}],
    }
    out = merged(folders, tmp_path / "out", **document)
    assert {weight.dtype for weight in out.values()} == {expected}
    if dtypes == (torch.bfloat16, torch.float32):
        assert out[NORM][0] == 1 + 2**-12
    config = open_checkpoint(tmp_path / "out").config
    assert config["dtype"] == str(expected).removeprefix("torch.")

    live = TransformersModel(open_sources({n: str(f) for n, f in folders.items()}))
    live.load(parse_recipe(document))
    state = live.model.state_dict()
    assert torch.equal(state[NORM], out[NORM])
    live.close()


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_whole_numbers_are_copied_where_models_agree_and_else_named(tmp_path: Path, method: str) -> None:
    document: dict[str, Any] = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "base"}],
        "parameters": {"weight": 1.0},
    }
    extra = {"model.steps": torch.tensor([1, 2]), "model.mask": torch.tensor([True, False])}
    folders = small_models(tmp_path, torch.float32, torch.float32, **extra)
    out = merged(folders, tmp_path / "same", **document)
    assert torch.equal(out["model.steps"], extra["model.steps"])
    assert torch.equal(out["model.mask"], extra["model.mask"])
    for changed in ({"model.steps": torch.tensor([1, 3])}, {"model.mask": torch.tensor([True, True])}):
        save_model(tmp_path / "a", tensors_of(tmp_path / "base") | changed)
        with pytest.raises(CheckpointError, match=rf"{next(iter(changed))} holds .*differs in (a|base)"):
            merged(folders, tmp_path / "out", **document)


def test_weights_in_one_model_and_whole_numbers_in_another_are_refused(tmp_path: Path) -> None:
    folders = small_models(tmp_path, torch.float32, torch.float32)
    save_model(tmp_path / "a", tensors_of(tmp_path / "base") | {NORM: torch.ones(LLAMA["hidden_size"]).int()})
    with pytest.raises(CheckpointError, match=rf"{NORM} is stored in dtypes .*base in float32, a in int32"):
        merged(
            folders,
            tmp_path / "out",
            merge_method="linear",
            models=[{"model": "base"}, {"model": "a"}],
            parameters={"weight": 1.0},
        )
