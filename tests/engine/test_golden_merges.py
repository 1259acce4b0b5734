"""Merges that the reference engine (MergeKit 0.1.5) wrote, matched to 1e-5 relative."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import GOLDEN

from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.recipe import load_recipe

CONFIGS = sorted(path.stem for path in (GOLDEN / "configs").glob("*.yml"))
TOLERANCE = 1e-5


def merged(name: str, folder: Path) -> dict[str, torch.Tensor]:
    recipe = load_recipe(GOLDEN / "configs" / f"{name}.yml")
    merge_to_disk(recipe, open_sources({r: r for r in recipe.references()}, (GOLDEN,)), folder)
    return load_file(folder / "model.safetensors")


def worst(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest error relative to the largest element of its tensor (absolute where that is zero)."""
    assert set(ours) == set(theirs)
    errors = []
    for name, want in theirs.items():
        assert ours[name].shape == want.shape
        scale = float(want.abs().max())
        errors.append(float((ours[name] - want).abs().max()) / (scale or 1.0))
    return max(errors)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_merge_matches_the_reference(name: str, tmp_path: Path) -> None:
    ours = merged(name, tmp_path / "out")
    assert worst(ours, load_file(GOLDEN / "outputs" / name / "model.safetensors")) <= TOLERANCE
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    want = json.loads((GOLDEN / "outputs" / name / "config.json").read_text())
    assert config["num_hidden_layers"] == want["num_hidden_layers"]


@pytest.mark.parametrize("name", ["ties", "slerp_filters", "sce_topk", "arcee_fusion", "dare_ties_d1_norm"])
def test_torch_alone_matches_the_reference_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOMERGE_NATIVE", "0")
    ours = merged(name, tmp_path / "out")
    assert worst(ours, load_file(GOLDEN / "outputs" / name / "model.safetensors")) <= TOLERANCE


def test_all_of_the_reference_cases_are_here() -> None:
    assert len(CONFIGS) == 43
