"""``ignore``: tensors that a recipe leaves out are left out of every model, and listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support import MakeModel

from evomerge.engine.export import merge_to_disk
from evomerge.engine.ignored import pattern_for
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError
from evomerge.recipe import parse_recipe


def with_head(folder: Path, prefix: str = "v_head.summary.") -> Path:
    """The model in ``folder`` with a value head, as TRL saves it."""
    weights = load_file(folder / "model.safetensors")
    weights |= {f"{prefix}weight": torch.ones(1, 32), f"{prefix}bias": torch.ones(1)}
    save_file(weights, folder / "model.safetensors")
    return folder


def linear(*models: str, **fields: Any) -> dict[str, Any]:
    sources = [{"model": m, "parameters": {"weight": 0.5}} for m in models]
    return {"merge_method": "linear", "models": sources, "dtype": "float32", **fields}


def merged(tmp_path: Path, document: dict[str, Any], out: str) -> tuple[dict[str, torch.Tensor], Any]:
    recipe = parse_recipe(document)
    sources = open_sources({r: r for r in recipe.references()}, (tmp_path,))
    result = merge_to_disk(recipe, sources, tmp_path / out)
    return load_file(tmp_path / out / "model.safetensors"), result


@pytest.mark.parametrize(
    ("owner", "message"),
    [("a", r"value_proj\.weight in b"), ("b", r"not in a:(?s:.*)value_proj\.weight in b")],
)
def test_the_error_says_how_to_go_on_and_the_suggestion_works(
    owner: str, message: str, make_model: MakeModel, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        make_model(name, seed + 1)
    with_head(tmp_path / owner, "value_proj.")
    with pytest.raises(CheckpointError, match=message) as caught:
        merged(tmp_path, linear("a", "b"), "refused")
    found = re.search(r"ignore: (\[.*\])", caught.value.hint)
    assert found is not None
    patterns = yaml.safe_load(found[1])
    assert patterns == ["value_proj.*"]
    ours, _ = merged(tmp_path, linear("a", "b", ignore=patterns), "out")
    a, b = load_file(tmp_path / "a" / "model.safetensors"), load_file(tmp_path / "b" / "model.safetensors")
    assert set(ours) == set(a) & set(b)
    assert all(torch.allclose(ours[name], (a[name] + b[name]) / 2) for name in ours)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- `{owner}`: `value_proj.bias`, `value_proj.weight`" in card
    assert "ignore" in yaml.safe_load((tmp_path / "out" / "evomerge_recipe.yml").read_text())


@pytest.mark.parametrize("damaged", ["a", "b"])
def test_a_weight_that_the_model_needs_is_not_suggested_to_be_left_out(
    damaged: str, make_model: MakeModel, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        make_model(name, seed + 1)
    file = tmp_path / damaged / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight in b") as caught:
        merged(tmp_path, linear("a", "b"), "refused")
    assert "ignore" not in caught.value.hint
    assert ("Is a complete" in caught.value.hint) == (damaged == "a")


def test_missing_and_extra_tensors_are_told_at_once_and_only_the_unneeded_suggested(
    make_model: MakeModel, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        make_model(name, seed + 1)
    with_head(tmp_path / "a")
    file = tmp_path / "b" / "model.safetensors"
    weights = load_file(file) | {"other_head.weight": torch.ones(1)}
    del weights["model.norm.weight"]
    save_file(weights, file)
    with pytest.raises(
        CheckpointError, match=r"3 tensors are missing(?s:.*)1 tensors are not in a"
    ) as caught:
        merged(tmp_path, linear("a", "b"), "refused")
    assert 'ignore: ["v_head.*", "other_head.*"]' in caught.value.hint


@pytest.mark.parametrize("owners", ["a", "ab"])
def test_value_heads_are_left_out_of_all_models_and_in_stages(
    owners: str, make_model: MakeModel, tmp_path: Path
) -> None:
    for seed, name in enumerate("abc"):
        make_model(name, seed)
        if name in owners:
            with_head(tmp_path / name)
    plain = {name: load_file(tmp_path / name / "model.safetensors") for name in "abc"}
    stage = linear("a", "b", name="half")
    document = {**linear("half", "c", ignore="v_head.*"), "stages": [stage]}
    ours, result = merged(tmp_path, document, "out")
    assert set(ours) == set(plain["c"])
    for name, tensor in ours.items():
        expected = ((plain["a"][name] + plain["b"][name]) / 2 + plain["c"][name]) / 2
        assert torch.allclose(tensor, expected, atol=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    assert [model for model in "abc" if f"- `{model}`: `v_head" in card] == list(owners)
    assert not any("matches no tensor" in text for text in result.warnings)


def test_a_pattern_that_matches_nothing_is_warned_of_and_one_that_takes_all_refused(
    make_model: MakeModel, tmp_path: Path
) -> None:
    make_model("a", 1)
    make_model("b", 2)
    _, result = merged(tmp_path, linear("a", "b", ignore=["vhead.*"]), "out")
    assert any("'vhead.*' matches no tensor" in text for text in result.warnings)
    with pytest.raises(CheckpointError, match="leaves none"):
        merged(tmp_path, linear("a", "b", ignore=["*"]), "all")


def test_weights_that_the_model_needs_cannot_be_left_out(make_model: MakeModel, tmp_path: Path) -> None:
    make_model("a", 1)
    make_model("b", 2)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj"):
        merged(tmp_path, linear("a", "b", ignore=["*.layers.1.mlp.down_proj.*"]), "out")


def test_suggested_patterns_take_nothing_that_is_kept() -> None:
    kept = ["model.layers.0.mlp.up.weight", "score.weight"]
    extra = ["v_head.a.weight", "v_head.b.bias", "score.bias", "model.layers.0.x.w", "model.layers.1.x.w"]
    assert pattern_for(extra, kept) == ("v_head.*", "score.bias", "model.layers.*.x.w")


def _card(tmp_path: Path, out: str) -> str:
    return (tmp_path / out / "README.md").read_text()


def test_what_a_recipe_used_as_a_model_leaves_out_is_in_the_card(
    make_model: MakeModel, tmp_path: Path
) -> None:
    for seed, name in enumerate("abc"):
        make_model(name, seed)
    with_head(tmp_path / "a")
    inner = linear("a", "b", ignore="v_head.*")
    (tmp_path / "half.yml").write_text(yaml.safe_dump(inner))
    ours, _ = merged(tmp_path, linear("half.yml", "c"), "out")
    assert set(ours) == set(load_file(tmp_path / "c" / "model.safetensors"))
    assert "- `half.yml: a`: `v_head.summary.bias`, `v_head.summary.weight`" in _card(tmp_path, "out")
    (tmp_path / "quarter.yml").write_text(yaml.safe_dump(linear("half.yml", "b")))
    merged(tmp_path, linear("quarter.yml", "c"), "twice")
    assert "- `quarter.yml: half.yml: a`: `v_head" in _card(tmp_path, "twice")


@pytest.mark.parametrize("inner", [False, True], ids=["recipe", "stage"])
def test_buffers_that_models_compute_are_listed_once_for_all_layers(
    inner: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    for seed, name in enumerate("abc"):
        make_model(name, seed)
    weights = load_file(tmp_path / "b" / "model.safetensors")
    weights |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
    save_file(weights, tmp_path / "b" / "model.safetensors")
    document = linear("a", "b")
    if inner:
        document = {**linear("half", "c"), "stages": [{**document, "name": "half"}]}
    ours, _ = merged(tmp_path, document, "out")
    assert not any("inv_freq" in name for name in ours)
    assert "- `b`: `model.layers.*.self_attn.rotary_emb.inv_freq` (3)\n" in _card(tmp_path, "out")
