"""``ignore``: tensors that only some models have are left out by name, and the card says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import LLAMA, llama_shapes, save_model

from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.engine.export import merge_to_disk
from evomerge.engine.inputs import Inputs
from evomerge.errors import CheckpointError, RecipeError
from evomerge.recipe import Recipe, load_recipe, parse_recipe
from evomerge.recipe.space import SearchSpace
from evomerge.search.baselines import baselines

HEAD = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for seed, (name, more) in enumerate({"base": {}, "one": {}, "valued": HEAD}.items()):
        torch.manual_seed(seed)
        tensors = {n: torch.randn(s) for n, s in llama_shapes(LLAMA).items()}
        found[name] = save_model(tmp_path / name, {**tensors, **more})
    return found


def _document(first: str, second: str, **more: object) -> dict[str, object]:
    models = [{"model": m, "parameters": {"weight": 0.5}} for m in (first, second)]
    return {"merge_method": "linear", "models": models, **more}


@pytest.mark.parametrize("order", [("base", "valued"), ("valued", "base")])
def test_the_error_on_tensors_of_one_model_says_what_to_write(
    models: dict[str, Path], order: tuple[str, str]
) -> None:
    checkpoints = {m: open_checkpoint(models[m]) for m in order}
    with pytest.raises(CheckpointError, match=r'ignore: \["v_head\.\*"\]'):
        Inputs(checkpoints).plan(parse_recipe(_document(*order)))


@pytest.mark.parametrize("order", [("base", "valued"), ("valued", "base")])
def test_what_is_ignored_is_not_merged_and_is_listed_in_the_card(
    models: dict[str, Path], order: tuple[str, str], tmp_path: Path
) -> None:
    recipe = parse_recipe(_document(*order, ignore="v_head.*"))
    merge_to_disk(recipe, {m: open_checkpoint(models[m]) for m in order}, tmp_path / "out")
    plain = parse_recipe(_document("base", "one"))
    merge_to_disk(plain, {m: open_checkpoint(models[m]) for m in ("base", "one")}, tmp_path / "plain")
    out = load_file(tmp_path / "out" / "model.safetensors")
    a, b = (load_file(models[m] / "model.safetensors") for m in order)
    assert set(out) == set(llama_shapes(LLAMA))
    assert all(torch.allclose(out[n], (a[n] + b[n]) / 2, atol=1e-6) for n in out)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- `valued`: `v_head." in card
    assert "`v_head.summary.weight`" in card
    assert "`v_head.summary.bias`" in card
    assert "left out" not in (tmp_path / "plain" / "README.md").read_text()
    assert load_recipe(tmp_path / "out" / "evomerge_recipe.yml").ignore == ("v_head.*",)


def test_what_a_stage_ignores_is_listed_in_the_card_too(models: dict[str, Path], tmp_path: Path) -> None:
    stage = {**_document("base", "valued", ignore=["v_head.*"]), "name": "stage"}
    recipe = parse_recipe({**_document("stage", "one"), "stages": [stage]})
    merge_to_disk(recipe, {m: open_checkpoint(p) for m, p in models.items()}, tmp_path / "out")
    assert "- `stage`: `v_head.summary.bias of valued`" in (tmp_path / "out" / "README.md").read_text()


def test_a_pattern_without_a_match_is_warned_of_and_one_that_matches_all_is_refused(
    models: dict[str, Path],
) -> None:
    inputs = Inputs({m: open_checkpoint(p) for m, p in models.items()})
    plan = inputs.plan(parse_recipe(_document("base", "one", ignore=["value_head.*"])))
    assert "ignore: 'value_head.*' matches no tensor of any model" in plan.warnings
    with pytest.raises(RecipeError, match="leaves out all tensors of base"):
        inputs.plan(parse_recipe(_document("base", "one", ignore=["*"])))


def test_a_missing_layer_is_not_called_something_to_ignore(models: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(models["one"] / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    checkpoints = {
        "base": open_checkpoint(models["base"]),
        "part": open_checkpoint(save_model(tmp_path / "part", tensors)),
    }
    with pytest.raises(CheckpointError, match=r"up_proj\.weight in part") as caught:
        Inputs(checkpoints).plan(parse_recipe(_document("base", "part")))
    assert "ignore" not in str(caught.value)


def test_a_search_keeps_its_measurements_and_its_baselines_ignore_the_same(models: dict[str, Path]) -> None:
    inputs = Inputs({m: open_checkpoint(p) for m, p in models.items()})

    def recipe(weight: float) -> Recipe:
        document = _document("base", "valued", ignore=["v_head.*"], parameters={"normalize": weight > 1})
        return parse_recipe(document)

    first, second = inputs.plan(recipe(0.5)), inputs.plan(recipe(2.0))
    assert all(first.checkpoints[m] is second.checkpoints[m] for m in first.checkpoints)
    for baseline in baselines(SearchSpace(_document("base", "valued", ignore=["v_head.*"]))):
        assert baseline.recipe.ignore == ("v_head.*",)
        assert inputs.plan(baseline.recipe).tensors
