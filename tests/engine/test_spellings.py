"""Models whose files spell their tensors in several ways merge as if they were spelled in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from spelling_support import Folder, linear, ties
from torch import Tensor

from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.engine.export import merge_to_disk
from evomerge.engine.unify import unify
from evomerge.errors import CheckpointError, RecipeError
from evomerge.recipe import parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore")

FAMILIES = [*architectures.decoders(), *architectures.others()]
PREFIXES = [
    "gemma3-ImageTextToText",
    "internvl-ImageTextToText",
    "llava-ImageTextToText",
    "llava_next-ImageTextToText",
    "mistral3-ImageTextToText",
    "paligemma-ImageTextToText",
    "qwen2_5_vl-ImageTextToText",
    "qwen2_vl-ImageTextToText",
    "qwen2_audio-Seq2SeqLM",
    "gpt_neox",
    "granitemoe",
    "vit-ImageClassification",
]
EXPERTS = [
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v3",
    "olmoe",
    "jamba",
    "phimoe",
    "qwen3_5_moe-ImageTextToText",
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def built(name: str) -> Any:
    return architectures.build(next(case for case in FAMILIES if case.name == name))


def two_spellings(folder: Folder, family: str) -> None:
    """Models a and b as transformers saves them, and the same ones by their names in memory."""
    model = built(family)
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
        folder.live(f"{name}_live", name, model)
    assert folder.tensors("a").keys() != folder.tensors("a_live").keys()


def same_weights(folder: Folder, one: str, other: str) -> bool:
    first, second = folder.load(one).state_dict(), folder.load(other).state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("family", PREFIXES)
def test_prefixes_of_former_releases_and_of_this_one_merge(family: str, folder: Folder) -> None:
    two_spellings(folder, family)
    folder.merge(ties("a", "b"), "plain")
    for base, other in (("a", "b_live"), ("a_live", "b")):
        folder.merge(ties(base, other), f"{base}_{other}")
        assert same_weights(folder, "plain", f"{base}_{other}")
        assert folder.tensors(f"{base}_{other}").keys() == folder.tensors(base).keys()


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_one_by_one_and_stacked_give_one_result(family: str, folder: Folder) -> None:
    two_spellings(folder, family)
    results = {
        base + other: folder.merge(ties(base, other), f"{base}_{other}").fingerprint
        for base in ("a", "a_live")
        for other in ("b", "b_live")
    }
    assert len(set(results.values())) == 1
    assert folder.tensors("a_live_b_live").keys() == folder.tensors("a").keys()


def test_experts_stacked_in_all_inputs_are_sparsified_at_random_one_by_one(folder: Folder) -> None:
    two_spellings(folder, "mixtral")
    one = folder.merge(ties("a", "b", method="dare_ties"), "one")
    assert (
        folder.merge(ties("a_live", "b_live", method="dare_ties"), "stacked").fingerprint == one.fingerprint
    )


def test_files_of_one_spelling_are_taken_as_they_are(folder: Folder) -> None:
    model = built("llama")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
    checkpoints = {name: open_checkpoint(folder.path / name) for name in "ab"}
    alike = unify(checkpoints, "a")
    assert all(alike.checkpoints[name] is checkpoints[name] for name in "ab")


def _gpt2_of_the_hub(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {n.removeprefix("transformer."): t for n, t in tensors.items()}
    return plain | {f"h.{i}.attn.bias": torch.ones(64, 64).tril()[None, None] for i in range(3)}


def _old_norms(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    old = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    return {n.replace(*old[0]).replace(*old[1]): t for n, t in tensors.items()}


def _with(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {prefix + n: t for n, t in tensors.items()}


def _without(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {n.removeprefix(prefix): t for n, t in tensors.items()}


@pytest.mark.parametrize(
    ("family", "change", "odd"),
    [
        ("gpt2", _gpt2_of_the_hub, "a"),
        ("gpt2", _gpt2_of_the_hub, "b"),
        ("gpt2", _without("transformer."), "b"),
        ("bloom", _without("transformer."), "a"),
        ("opt", _without("model."), "b"),
        ("llama", _without("model."), "a"),
        ("llama", _without("model."), "b"),
        ("bert-MaskedLM", _old_norms, "a"),
        ("bert-MaskedLM", _old_norms, "b"),
        ("bert-MaskedLM", _without("bert."), "a"),
        ("roberta-MaskedLM", _without("roberta."), "b"),
        ("bart-Seq2SeqLM", _without("model."), "a"),
        ("llama", _with("net.inner."), "b"),
        ("llama", _with("model."), "a"),
        ("llama", _with("model."), "b"),
    ],
)
def test_one_input_of_another_spelling_changes_nothing(
    family: str, change: Any, odd: str, folder: Folder
) -> None:
    """Whether it is the base (a) or a model (b)."""
    model = built(family)
    for seed, name in enumerate("abc"):
        folder.save(name, model, seed)
    folder.write("odd", odd, change)
    folder.merge(ties("a", "b", "c"), "plain")
    folder.merge(ties(*("odd" if name == odd else name for name in "abc")), "mixed")
    assert same_weights(folder, "plain", "mixed")


WRAPPERS = [
    "_orig_mod.",
    "module.",
    "base_model.model.",
    "module._orig_mod.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
]


@pytest.mark.parametrize(
    ("prefix", "wrapped"), [*((prefix, "ab") for prefix in WRAPPERS), (WRAPPERS[0], "a"), (WRAPPERS[0], "b")]
)
def test_names_of_wrappers_are_taken_away(prefix: str, wrapped: str, folder: Folder) -> None:
    model = built("llama")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
        folder.write(f"{name}_wrapped", name, _with(prefix))
    plain = folder.merge(linear("a", "b"), "plain")
    result = folder.merge(linear(*(f"{n}_wrapped" if n in wrapped else n for n in "ab")))
    assert result.fingerprint == plain.fingerprint
    assert sum("wrapper" in warning for warning in result.warnings) == len(wrapped)


def test_wrappers_inside_of_a_model_are_taken_away(folder: Folder) -> None:
    model = built("llama")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
    folder.write(
        "compiled",
        "b",
        lambda tensors: {
            n.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn.").replace(
                "q_proj.", "q_proj.base_layer."
            ): t
            for n, t in tensors.items()
        },
    )
    assert (
        folder.merge(linear("a", "compiled")).fingerprint == folder.merge(linear("a", "b"), "o").fingerprint
    )


def test_what_peft_trained_stands_for_what_it_kept(folder: Folder) -> None:
    model = built("llama")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)

    def dumped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        head = tensors.pop("lm_head.weight")
        kept = {"lm_head.original_module.weight": head * 2, "lm_head.modules_to_save.default.weight": head}
        return _with("base_model.model.")(tensors | kept)

    folder.write("dumped", "b", dumped)
    result = folder.merge(linear("a", "dumped"))
    assert result.fingerprint == folder.merge(linear("a", "b"), "plain").fingerprint
    assert "original_module" in result.warnings[0]


def test_factors_of_an_adapter_beside_the_weights_are_refused(folder: Folder) -> None:
    model = built("llama")
    folder.save("a", model, 0)
    factor = {"base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight": torch.ones(2, 32)}
    folder.write("b", "a", lambda tensors: _with("base_model.model.")(tensors) | factor)
    with pytest.raises(CheckpointError, match=r"b: holds the factors of an adapter .*merge_and_unload"):
        folder.merge(linear("a", "b"))


def test_a_module_around_all_tensors_of_all_inputs_is_taken_away(folder: Folder) -> None:
    model = built("llama")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
        folder.write(f"{name}_net", name, _with("net.inner."))
    result = folder.merge(linear("a_net", "b_net"))
    assert result.fingerprint == folder.merge(linear("a", "b"), "plain").fingerprint
    assert "a_net: all tensors stand in the module net.inner., which is taken away" in result.warnings


def test_weights_that_would_be_random_are_refused(folder: Folder) -> None:
    model = built("llama")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
        folder.write(
            f"{name}_odd", name, lambda t: {n.replace("mlp.up_proj", "mlp.up"): w for n, w in t.items()}
        )
    with pytest.raises(CheckpointError, match=r"weights would be missing: .*0.mlp.up_proj.*wrapper"):
        folder.merge(linear("a_odd", "b_odd"))
    assert not (folder.path / "out").exists()


def test_what_is_wrong_with_the_inputs_themselves_is_told(folder: Folder) -> None:
    model = built("llama")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
        folder.set(name, intermediate_size=32)
    recipe = linear("a", "b")
    result = merge_to_disk(recipe, folder.checkpoints(recipe), folder.path / "out")
    assert any("is [48, 32], not [32, 32]" in warning for warning in result.warnings)


def test_drafting_heads_that_one_input_lacks_are_left_out_and_named(folder: Folder) -> None:
    model = built("qwen3_next")
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
    folder.write("drafting", "a", lambda tensors: tensors | {"mtp.fc.weight": torch.ones(2, 2)})
    result = folder.merge(linear("drafting", "b"))
    assert "mtp.fc.weight" not in folder.tensors("out")
    assert any("drafting: left out" in w and "mtp.fc.weight" in w for w in result.warnings)
    folder.write("drafting_b", "b", lambda tensors: tensors | {"mtp.fc.weight": torch.zeros(2, 2)})
    kept = linear("drafting", "drafting_b")
    merge_to_disk(kept, folder.checkpoints(kept), folder.path / "kept")
    assert torch.equal(folder.tensors("kept")["mtp.fc.weight"], torch.full((2, 2), 0.5))


def _modules(**listed: list[str]) -> Any:
    modules = {
        name: {"models": [{"model": m, "parameters": {"weight": 1}} for m in models]}
        for name, models in listed.items()
    }
    return parse_recipe({"merge_method": "linear", "modules": modules})


def _text_only(folder: Folder, model: Any) -> None:
    """A model of the decoder alone, as the class for it saves it."""
    import transformers

    config = model.config.get_text_config()
    config.tie_word_embeddings = False
    folder.save("text", transformers.AutoModelForCausalLM.from_config(config), 5)


@pytest.mark.parametrize("spelling", ["a", "a_live"])
def test_a_language_model_alone_is_merged_into_the_decoder(spelling: str, folder: Folder) -> None:
    model = built("mistral3-ImageTextToText")
    folder.save("a", model, 0)
    folder.live("a_live", "a", model)
    _text_only(folder, model)
    recipe = _modules(
        language_model=[spelling, "text"], vision_tower=[spelling], multi_modal_projector=[spelling]
    )
    folder.merge(recipe)
    text, first = folder.load("text").state_dict(), folder.load("a").state_dict()
    merged = folder.load("out").state_dict()
    for name, weight in merged.items():
        own = text.get(name.replace("model.language_model.", "model."))
        expected = first[name] if own is None else (first[name] + own) / 2
        assert torch.allclose(weight, expected, atol=1e-6), name


def test_a_module_that_a_model_does_not_have_is_named(folder: Folder) -> None:
    model = built("mistral3-ImageTextToText")
    folder.save("a", model, 0)
    _text_only(folder, model)
    recipe = _modules(language_model=["a"], vision_tower=["a", "text"], multi_modal_projector=["a"])
    with pytest.raises(CheckpointError, match="text: has no tensors of the module vision_tower"):
        folder.merge(recipe)
    with pytest.raises((CheckpointError, RecipeError), match="vision_tower"):
        folder.merge(_modules(language_model=["text"], vision_tower=["text"]))
