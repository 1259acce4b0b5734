"""Merges as inputs of merges: the same weights as one after the other through disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import MakeModel

from evomerge.backends.transformers_model import TransformersModel
from evomerge.engine import stages
from evomerge.engine.export import MergeOptions, merge_to_disk
from evomerge.engine.sources import identities, open_sources
from evomerge.errors import RecipeError, UserError
from evomerge.recipe import SearchSpace, dump_recipe, load_recipe, parse_recipe

TWO_STAGES = """
name: half
merge_method: linear
models: [{model: one, parameters: {weight: 1}}, {model: two, parameters: {weight: 1}}]
dtype: bfloat16
---
name: sparse
merge_method: ties
base_model: base
models:
  - {model: half, parameters: {weight: 1, density: 0.5}}
  - {model: two, parameters: {weight: 1, density: 0.5}}
---
merge_method: slerp
base_model: half
slices:
  - sources: [{model: half, layer_range: [0, 3]}, {model: sparse, layer_range: [0, 3]}]
parameters: {t: 0.4}
dtype: float32
"""


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    for seed, name in enumerate(("base", "one", "two")):
        make_model(name, seed)
    (tmp_path / "all.yml").write_text(TWO_STAGES)
    return tmp_path


def merge(recipe: Path, out: Path) -> str:
    loaded = load_recipe(recipe)
    sources = open_sources({r: r for r in loaded.references()}, (recipe.parent,))
    return merge_to_disk(loaded, sources, out, MergeOptions(overwrite=True, threads=2)).fingerprint


def test_stages_give_what_merging_them_one_after_the_other_gives(folder: Path) -> None:
    whole = merge(folder / "all.yml", folder / "out")
    for name, text in zip(("half", "sparse", "last"), TWO_STAGES.split("---"), strict=True):
        (folder / f"{name}.yml").write_text(text)
        single = merge(folder / f"{name}.yml", folder / name)
    assert whole == single
    a, b = (load_file(folder / n / "model.safetensors") for n in ("out", "last"))
    assert a.keys() == b.keys()
    assert all((a[k] == b[k]).all() for k in a)


def test_a_recipe_file_can_stand_for_a_model(folder: Path) -> None:
    half, sparse, last = TWO_STAGES.split("---")
    below = folder / "recipes"
    below.mkdir()
    (below / "half.yml").write_text(half.replace("one", "../one").replace("two", "../two"))
    (below / "sparse.yml").write_text(sparse.replace("half,", "half.yml,"))
    names = {"base_model: half": "base_model: recipes/half.yml", "model: half": "model: recipes/half.yml"}
    for old, new in {**names, "model: sparse": "model: recipes/sparse.yml"}.items():
        last = last.replace(old, new)
    (folder / "last.yml").write_text(last)
    assert merge(folder / "last.yml", folder / "a") == merge(folder / "all.yml", folder / "b")


def write_adapter(folder: Path) -> None:
    """An adapter of all query projections, in the folder ``lora``."""
    (folder / "lora").mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (2, 32), "B": (32, 2)}
    tensors = {name.format(i, part): torch.rand(shape) for i in range(3) for part, shape in shapes.items()}
    save_file(tensors, folder / "lora" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ["half", "recipes/half.yml"])
def test_an_adapter_goes_over_a_stage_as_over_a_model(folder: Path, name: str) -> None:
    write_adapter(folder)
    half, sparse, last = TWO_STAGES.split("---")
    (folder / "half.yml").write_text(half)
    (folder / "apart.yml").write_text(f"{sparse}---{last}".replace("half", "made+lora"))
    merge(folder / "half.yml", folder / "made")
    want = merge(folder / "apart.yml", folder / "a")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "half.yml").write_text(half.replace("one", "../one").replace("two", "../two"))
    text = f"{sparse}---{last}".replace("half", f"{name}+lora")
    (folder / "together.yml").write_text(f"{half}---{text}" if name == "half" else text)
    assert merge(folder / "together.yml", folder / "b") == want
    assert want != merge(folder / "all.yml", folder / "c")


def test_an_adapter_over_a_stage_is_in_memory_what_it_is_on_disk_and_follows_its_stage(folder: Path) -> None:
    write_adapter(folder)
    document = load_recipe(folder / "all.yml").document()
    document["stages"][0]["models"][0]["parameters"]["weight"] = {"float": [0, 2]}
    document["base_model"] = document["slices"][0]["sources"][0]["model"] = "half+lora"
    space = SearchSpace(document)
    [name] = [d.name for d in space.dimensions]
    assert "+lora" in space.references()
    sources = open_sources({n: n for n in space.references()}, (folder,))
    assert (
        identities(sources)["+lora"]
        == identities(open_sources({"x": "one+lora"}, (folder,)))["x"].split("+")[1]
    )
    live = TransformersModel(sources)
    prints = []
    for value in (0.5, 1.5, 0.5):
        recipe = space.fill({name: value})
        prints.append(live.load(recipe))
        dump_recipe(recipe.with_references({"+lora": f"+{folder / 'lora'}"}), folder / "one_candidate.yml")
        assert merge(folder / "one_candidate.yml", folder / "out") == prints[-1]
    assert prints[0] == prints[2] != prints[1]
    live.close()


def test_an_adapter_alone_is_no_model_and_stages_with_adapters_may_not_need_each_other(folder: Path) -> None:
    write_adapter(folder)
    (folder / "alone.yml").write_text("merge_method: passthrough\nmodels: [{model: +lora}]\n")
    with pytest.raises(RecipeError, match=r"'\+lora' is an adapter alone\. Write base_model\+lora"):
        merge(folder / "alone.yml", folder / "out")
    circle = TWO_STAGES.replace("model: one,", "model: sparse+lora,")
    (folder / "circle.yml").write_text(circle)
    with pytest.raises(RecipeError, match="need each other"):
        load_recipe(folder / "circle.yml")


def test_memory_and_disk_agree(folder: Path) -> None:
    recipe = load_recipe(folder / "all.yml")
    sources = open_sources({r: r for r in recipe.references()}, (folder,))
    live = TransformersModel(sources)
    assert live.load(recipe) == merge(folder / "all.yml", folder / "out")
    live.close()


def test_a_stage_with_a_hole_is_made_again_when_its_value_changes(folder: Path) -> None:
    document = load_recipe(folder / "all.yml").document()
    document["stages"][0]["models"][0]["parameters"]["weight"] = {"float": [0, 2]}
    space = SearchSpace(document)
    [name] = [d.name for d in space.dimensions]
    live = TransformersModel(open_sources({n: n for n in space.references()}, (folder,)))
    prints = []
    for value in (0.5, 1.5, 0.5):
        recipe = space.fill({name: value})
        prints.append(live.load(recipe))
        dump_recipe(recipe, folder / "one_candidate.yml")
        assert merge(folder / "one_candidate.yml", folder / "out") == prints[-1]
    assert prints[0] == prints[2] != prints[1]
    live.close()


def test_a_tensor_in_the_cache_is_not_merged_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = stages._StageFiles._merge

    def counting(self: Any, tensor: Any) -> Any:
        made.append(tensor.name)
        return original(self, tensor)

    monkeypatch.setattr(stages._StageFiles, "_merge", counting)
    merge(folder / "all.yml", folder / "out")
    assert len(made) == 2 * len(dict.fromkeys(made))  # 'half' and 'sparse' once each; 'half' is read twice


def test_a_recipe_with_stages_survives_being_written(folder: Path) -> None:
    recipe = load_recipe(folder / "all.yml")
    dump_recipe(recipe, folder / "again.yml")
    assert load_recipe(folder / "again.yml") == recipe
    assert (folder / "again.yml").read_text().count("\n---\n") == 2


def test_the_identity_of_a_recipe_follows_its_text_and_its_models(folder: Path) -> None:
    (folder / "half.yml").write_text(TWO_STAGES.split("---", maxsplit=1)[0])
    before = identities(open_sources({"m": "half.yml"}, (folder,)))
    assert identities(open_sources({"m": "half.yml"}, (folder,))) == before
    (folder / "half.yml").write_text(
        TWO_STAGES.split("---", maxsplit=1)[0].replace("weight: 1}", "weight: 2}", 1)
    )
    assert identities(open_sources({"m": "half.yml"}, (folder,))) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO_STAGES.replace("name: half\n", ""), "2 of 3 documents have no name"),
        (TWO_STAGES.replace("name: sparse", "name: half"), "two stages are called 'half'"),
        (TWO_STAGES.replace("model: one", "model: sparse"), "need each other"),
        (TWO_STAGES.replace("model: one", "model: half"), "need each other"),
        (TWO_STAGES.replace("model: one", "model: oen"), "oen: there is neither such a folder"),
        (TWO_STAGES.replace("density: 0.5", "density: 5", 1), "density.*between 0 and 1"),
        ("a: 1\n---\n- 2\n", "expected a mapping of fields at the top, got list"),
    ],
)
def test_stages_that_do_not_work_are_one_clear_message(folder: Path, text: str, message: str) -> None:
    (folder / "bad.yml").write_text(text)
    with pytest.raises(UserError, match=message):
        merge(folder / "bad.yml", folder / "out")
    assert not (folder / "out").exists()


def test_a_recipe_made_from_itself_is_refused(folder: Path) -> None:
    half = TWO_STAGES.split("---", maxsplit=1)[0]
    (folder / "a.yml").write_text(half.replace("model: one", "model: b.yml"))
    (folder / "b.yml").write_text(half.replace("model: one", "model: a.yml"))
    with pytest.raises(RecipeError, match=r"depends on itself: \S*b\.yml -> \S*a\.yml -> \S*b\.yml$"):
        merge(folder / "a.yml", folder / "out")


def test_recipes_of_one_document_have_no_stages() -> None:
    recipe = parse_recipe({"merge_method": "linear", "models": [{"model": "m"}]})
    assert recipe.stages == ()
    assert "stages" not in recipe.document()


ONE = [
    {"merge_method": "task_arithmetic", "base_model": "M"},
    {"merge_method": "ties", "base_model": "M", "parameters": {"density": 0.5, "weight": 0.3}},
    {"merge_method": "dare_linear", "base_model": "M", "parameters": {"density": 0.5, "weight": 1}},
    {"merge_method": "sce", "base_model": "M", "parameters": {"select_topk": 0.5}},
    {"merge_method": "linear", "parameters": {"weight": 0.3}},
    {"merge_method": "passthrough"},
    {"merge_method": "karcher"},
    {"merge_method": "multislerp", "parameters": {"weight": 0.5}},
    {"merge_method": "multislerp", "base_model": "base", "parameters": {"weight": 0.5}},
]


@pytest.mark.parametrize("document", ONE, ids=lambda d: "-".join(map(str, d.values()))[:40])
def test_a_merge_of_one_model_is_the_model(folder: Path, document: dict[str, Any]) -> None:
    write_adapter(folder)
    document = document | {"models": [{"model": "one+lora"}], "dtype": "float32"}
    document |= {"base_model": "one+lora"} if document.get("base_model") == "M" else {}
    sources = open_sources({"one+lora": "one+lora", "base": "base"}, (folder,))
    recipe = parse_recipe(document)
    result = merge_to_disk(recipe, sources, folder / "out")
    made = load_file(folder / "out" / "model.safetensors")
    for name, tensor in made.items():
        assert torch.equal(tensor, sources["one+lora"].read(name).float())
    live = TransformersModel(sources)
    assert live.load(recipe) == result.fingerprint
    live.close()
