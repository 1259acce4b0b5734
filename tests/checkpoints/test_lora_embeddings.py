"""Adapters of the vocabulary: tied heads, saved copies, added tokens; the model is the one PEFT runs."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import save_model
from tokenizer_support import bpe, save

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.export import MergeOptions, MergeResult, merge_to_disk
from evomerge.engine.sources import identities, open_sources
from evomerge.errors import CheckpointError
from evomerge.recipe import parse_recipe
from evomerge.tokenizers.vocabulary import load_tokenizer

ROWS, MORE, LESS = 40, 46, 32
Q = ["q_proj"]
BOTH = ["embed_tokens", "lm_head"]
IDS = torch.arange(3, 14)[None]
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class Case:
    """Settings of an adapter, of the base, and what becomes of its head and of its rows."""

    settings: dict[str, Any]
    ties: bool
    rows: int = ROWS
    base_ties: bool = True
    peft_merges_it: bool = True
    """Whether PEFT's own merge is the model that was trained: not where it adds to a shared weight twice."""
    saving: dict[str, Any] = field(default_factory=dict)


CASES = {
    "lora of both": Case({"target_modules": Q + BOTH}, ties=False, peft_merges_it=False),
    "lora of the embedding": Case({"target_modules": [*Q, "embed_tokens"]}, ties=False, peft_merges_it=False),
    "lora of the head": Case({"target_modules": [*Q, "lm_head"]}, ties=False, peft_merges_it=False),
    "lora of both, kept tied": Case(
        {"target_modules": Q + BOTH, "ensure_weight_tying": True}, ties=True, peft_merges_it=False
    ),
    "lora of the head, kept tied": Case(
        {"target_modules": [*Q, "lm_head"], "ensure_weight_tying": True}, ties=True, peft_merges_it=False
    ),
    "dora of both": Case({"target_modules": Q + BOTH, "use_dora": True}, ties=False, peft_merges_it=False),
    "both saved": Case({"target_modules": Q, "modules_to_save": BOTH}, ties=False),
    "embedding saved": Case({"target_modules": Q, "modules_to_save": ["embed_tokens"]}, ties=False),
    "head saved": Case({"target_modules": Q, "modules_to_save": ["lm_head"]}, ties=False),
    "both saved, kept tied": Case(
        {"target_modules": Q, "modules_to_save": BOTH, "ensure_weight_tying": True}, ties=True
    ),
    "saved and adapted": Case(
        {"target_modules": [*Q, "lm_head"], "modules_to_save": ["embed_tokens"]},
        ties=False,
        peft_merges_it=False,
    ),
    "embeddings saved with it": Case(
        {"target_modules": Q}, ties=True, saving={"save_embedding_layers": True}
    ),
    "tokens": Case({"target_modules": Q, "trainable_token_indices": [3, 5]}, ties=True),
    "tokens of both": Case(
        {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}},
        ties=True,
    ),
    "other tokens of the head": Case(
        {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [7]}},
        ties=False,
        peft_merges_it=False,
    ),
    "tokens of the head": Case(
        {"target_modules": Q, "trainable_token_indices": {"lm_head": [7, 5]}},
        ties=False,
        peft_merges_it=False,
    ),
    "tokens, and lora of the head": Case(
        {"target_modules": [*Q, "lm_head"], "trainable_token_indices": [3, 5]},
        ties=False,
        peft_merges_it=False,
    ),
    "added tokens alone, and lora of the head": Case(
        {"target_modules": [*Q, "lm_head"], "trainable_token_indices": [3, *range(ROWS, MORE)]},
        ties=False,
        rows=MORE,
        peft_merges_it=False,
        saving={"save_embedding_layers": False},
    ),
    "more rows": Case({"target_modules": Q}, ties=True, rows=MORE),
    "more rows, both saved": Case({"target_modules": Q, "modules_to_save": BOTH}, ties=False, rows=MORE),
    "more rows, embedding saved": Case(
        {"target_modules": Q, "modules_to_save": ["embed_tokens"]}, ties=False, rows=MORE
    ),
    "more rows, saved and kept tied": Case(
        {"target_modules": Q, "modules_to_save": BOTH, "ensure_weight_tying": True}, ties=True, rows=MORE
    ),
    "more rows, lora of both": Case(
        {"target_modules": Q + BOTH}, ties=False, rows=MORE, peft_merges_it=False
    ),
    "more rows, lora of the embedding": Case(
        {"target_modules": [*Q, "embed_tokens"]}, ties=False, rows=MORE, peft_merges_it=False
    ),
    "more rows, lora of the head": Case(
        {"target_modules": [*Q, "lm_head"]}, ties=False, rows=MORE, peft_merges_it=False
    ),
    "more rows, tokens": Case(
        {"target_modules": Q, "trainable_token_indices": [40, 41, 42, 44]}, ties=True, rows=MORE
    ),
    "tokens that were added, nothing else saved": Case(
        {"target_modules": Q, "trainable_token_indices": [7, *range(ROWS, MORE)]},
        ties=True,
        rows=MORE,
        saving={"save_embedding_layers": False},
    ),
    "fewer rows": Case({"target_modules": Q, "modules_to_save": BOTH}, ties=False, rows=LESS),
    "untied, more rows": Case({"target_modules": Q}, ties=False, rows=MORE, base_ties=False),
    "untied, more rows, both saved": Case(
        {"target_modules": Q, "modules_to_save": BOTH}, ties=False, rows=MORE, base_ties=False
    ),
    "untied, fewer rows, both saved": Case(
        {"target_modules": Q, "modules_to_save": BOTH}, ties=False, rows=LESS, base_ties=False
    ),
    "untied, more rows, lora of both": Case(
        {"target_modules": Q + BOTH}, ties=False, rows=MORE, base_ties=False
    ),
    "untied, tokens of both": Case(
        {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [3], "lm_head": [7]}},
        ties=False,
        base_ties=False,
    ),
}


def make_base(folder: Path, *, tied: bool = True, kind: str = "llama") -> Path:
    """A tiny model with random weights."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    torch.manual_seed(0)
    config: Any = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    if kind == "gpt2":
        config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=ROWS, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, case: Case, auto: str = "AutoModelForCausalLM") -> Any:
    """Saves a random adapter with PEFT; what the live model answers."""
    import transformers
    from peft import LoraConfig, get_peft_model

    plain = getattr(transformers, auto).from_pretrained(base)
    if case.rows != ROWS:
        plain.resize_token_embeddings(case.rows)
    model = get_peft_model(plain, LoraConfig(**{"r": 2, "lora_alpha": 5} | copy.deepcopy(case.settings)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(str(folder), **case.saving)
    return model.eval()(IDS).logits.detach()


def merge(reference: str, out: Path, **options: Any) -> MergeResult:
    """Bakes an adapter in."""
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": reference}]} | options)
    sources = open_sources({r: r for r in recipe.references()}, (out.parent,))
    return merge_to_disk(recipe, sources, out, MergeOptions(overwrite=True))


def answers(folder: Path, auto: str = "AutoModelForCausalLM") -> Any:
    """Logits of a model folder, which must hold exactly what its configuration asks for."""
    import transformers

    model, loading = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    return model.eval()(IDS).logits.detach()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_vocabulary_is_the_one_of_the_model_that_was_trained(case: Case, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tied=case.base_ties)
    live = make_adapter(base, tmp_path / "lora", case)
    merge(f"{base}+{tmp_path / 'lora'}", tmp_path / "out")
    torch.testing.assert_close(answers(tmp_path / "out"), live, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert (config["tie_word_embeddings"], "lm_head.weight" not in tensors) == (case.ties, case.ties)
    assert config["vocab_size"] == case.rows == len(tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.peft_merges_it],
    ids=[name for name, case in CASES.items() if case.peft_merges_it],
)
def test_every_weight_is_the_one_that_peft_merges(case: Case, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base", tied=case.base_ties)
    make_adapter(base, tmp_path / "lora", case)
    plain = AutoModelForCausalLM.from_pretrained(base)
    if case.rows != ROWS:
        plain.resize_token_embeddings(case.rows)
    merged = PeftModel.from_pretrained(plain, str(tmp_path / "lora")).merge_and_unload()
    merged.save_pretrained(tmp_path / "peft")
    merge(f"{base}+{tmp_path / 'lora'}", tmp_path / "out")
    want, made = (load_file(tmp_path / n / "model.safetensors") for n in ("peft", "out"))
    assert want.keys() == made.keys()
    for name, tensor in want.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lora of both", "tokens", "more rows, both saved"])
def test_memory_and_disk_agree(name: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    make_adapter(base, tmp_path / "lora", CASES[name])
    document = {"merge_method": "passthrough", "models": [{"model": f"{base}+{tmp_path / 'lora'}"}]}
    recipe = parse_recipe(document)
    checkpoints = open_sources({r: r for r in recipe.references()})
    live = TransformersModel(checkpoints)
    fingerprint = live.load(recipe)
    assert merge_to_disk(recipe, checkpoints, tmp_path / "out").fingerprint == fingerprint
    with torch.no_grad():
        torch.testing.assert_close(live.model(IDS).logits, answers(tmp_path / "out"))
    live.close()


def test_a_head_of_its_own_is_worth_a_warning(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    make_adapter(base, tmp_path / "lora", CASES["lora of the head"])
    warning, _ = merge(f"{base}+{tmp_path / 'lora'}", tmp_path / "out").warnings  # the other: no tokenizer
    assert "lm_head.weight" in warning
    assert "tie_word_embeddings becomes false" in warning
    tuned = f"{base}+{tmp_path / 'lora'}"
    stage = {"name": "half", "merge_method": "passthrough", "models": [{"model": tuned}]}
    (of_stage, _) = merge("half", tmp_path / "out", stages=[stage]).warnings
    assert of_stage == f"half: {warning}"
    make_adapter(base, tmp_path / "tokens", CASES["tokens"])
    assert len(merge(f"{base}+{tmp_path / 'tokens'}", tmp_path / "out").warnings) == 1


@pytest.mark.parametrize("settings", [{"modules_to_save": ["wte", "lm_head"]}, {"target_modules": ["wte"]}])
def test_other_names_of_embeddings_are_found_too(settings: dict[str, Any], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", kind="gpt2")
    case = Case({"target_modules": ["c_attn"], "fan_in_fan_out": True} | settings, ties=False)
    live = make_adapter(base, tmp_path / "lora", case)
    merge(f"{base}+{tmp_path / 'lora'}", tmp_path / "out")
    torch.testing.assert_close(answers(tmp_path / "out"), live, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["model.language_model.", "model."])
def test_a_text_model_inside_another_is_untied_and_resized_too(prefix: str, tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    width = {"hidden_size": 16, "intermediate_size": 24}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    vision = width | {"depth": 2, "num_heads": 2, "out_hidden_size": 16, "fullatt_block_indexes": [1]}
    tied = {"tie_word_embeddings": True}
    config = Qwen2_5_VLConfig(
        text_config=width | heads | tied | {"vocab_size": ROWS, "rope_scaling": rope},
        vision_config=vision,
        image_token_id=37,
        video_token_id=38,
        vision_start_token_id=39,
        **tied,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    case = Case({"target_modules": Q, "modules_to_save": BOTH}, ties=False, rows=MORE)
    auto = "AutoModelForImageTextToText"
    live = make_adapter(tmp_path / "base", tmp_path / "lora", case, auto)
    rename(tmp_path / "lora", lambda key: key.replace("model.language_model.", prefix))
    merge(f"{tmp_path / 'base'}+{tmp_path / 'lora'}", tmp_path / "out")
    torch.testing.assert_close(answers(tmp_path / "out", auto), live, rtol=1e-5, atol=1e-5)
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert (text["tie_word_embeddings"], text["vocab_size"]) == (False, MORE)


# --------------------------------------------------------------------- how adapters are saved


def saved(tmp_path: Path, case: str = "lora of both") -> tuple[Path, Path, Any]:
    """A base and an adapter of it, and what both make."""
    base = make_base(tmp_path / "base")
    return base, tmp_path / "lora", make_adapter(base, tmp_path / "lora", CASES[case])


def rename(folder: Path, name: Any) -> None:
    """Gives the tensors of an adapter other names."""
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name(key): tensor for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("base_model.model.", ""),
        ("base_model.model.", "base_model."),
        ("base_model.model.", "base_model.model._orig_mod."),
        ("base_model.model.", "module.base_model.model."),
        ("base_model.model.", "base_model.model.base_model.model."),
        ("base_model.model.model.", "base_model.model.model._fsdp_wrapped_module."),
        ("lora_A.", "lora_A.default."),
        (".lora_embedding_A", ".lora_embedding_A.default"),
        (".modules_to_save.", ".modules_to_save.default."),
    ],
)
@pytest.mark.parametrize("case", ["lora of both", "more rows, both saved"])
def test_names_with_wrappers_and_names_of_adapters_are_read(
    case: str, was: str, now: str, tmp_path: Path
) -> None:
    base, lora, live = saved(tmp_path, case)
    rename(lora, lambda key: key.replace(was, now))
    merge(f"{base}+{lora}", tmp_path / "out")
    torch.testing.assert_close(answers(tmp_path / "out"), live, rtol=1e-5, atol=1e-5)


def test_several_adapters_in_one_file_are_named(tmp_path: Path) -> None:
    base, lora, _ = saved(tmp_path)
    tensors = load_file(lora / "adapter_model.safetensors")
    both = {
        k.replace("lora_A.", f"lora_A.{n}."): v.clone() for k, v in tensors.items() for n in ("one", "two")
    }
    save_file(both, lora / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"several adapters in one file \(one, two\)"):
        open_sources({"x": f"{base}+{lora}"})


def test_a_configuration_beside_an_adapter_does_not_make_it_a_model(tmp_path: Path) -> None:
    base, lora, _ = saved(tmp_path)
    first = identities(open_sources({"x": f"{base}+{lora}"}))
    (lora / "config.json").write_bytes((base / "config.json").read_bytes())
    assert identities(open_sources({"x": f"{base}+{lora}"})) == first
    make_adapter(base, lora, CASES["tokens"])
    assert identities(open_sources({"x": f"{base}+{lora}"})) != first


def test_an_adapter_saved_as_bin_is_read(tmp_path: Path) -> None:
    base, lora, live = saved(tmp_path, "both saved")
    file = lora / "adapter_model.safetensors"
    torch.save(load_file(file), lora / "adapter_model.bin")
    file.unlink()
    merge(f"{base}+{lora}", tmp_path / "out")
    torch.testing.assert_close(answers(tmp_path / "out"), live, rtol=1e-5, atol=1e-5)


def test_a_bin_that_would_run_code_is_refused(tmp_path: Path) -> None:
    base, lora, _ = saved(tmp_path)
    (lora / "adapter_model.safetensors").unlink()
    torch.save({"base_model.model.lm_head.weight": Path()}, lora / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="reading it would run code"):
        open_sources({"x": f"{base}+{lora}"})


def test_the_only_adapter_below_a_folder_is_taken_and_several_are_listed(tmp_path: Path) -> None:
    base, lora, live = saved(tmp_path)
    (tmp_path / "run").mkdir()
    lora.rename(tmp_path / "run" / "checkpoint-9")
    merge(f"{base}+{tmp_path / 'run'}", tmp_path / "out")
    torch.testing.assert_close(answers(tmp_path / "out"), live, rtol=1e-5, atol=1e-5)
    make_adapter(base, tmp_path / "run" / "other", CASES["tokens"])
    with pytest.raises(CheckpointError, match=r"run: holds 2 adapters \(checkpoint-9, other\)"):
        open_sources({"x": f"{base}+{tmp_path / 'run'}"})


@pytest.mark.parametrize(
    ("case", "ending"),
    [
        ("lora of both", "lm_head.base_layer.weight"),
        ("lora of both", "embed_tokens.base_layer.weight"),
        ("more rows, both saved", "embed_tokens.original_module.weight"),
        ("more rows, tokens", "embed_tokens.token_adapter.base_layer.weight"),
    ],
)
def test_a_copy_of_another_base_is_refused_by_name(case: str, ending: str, tmp_path: Path) -> None:
    base, lora, _ = saved(tmp_path, case)
    tensors = load_file(lora / "adapter_model.safetensors")
    (key,) = [k for k in tensors if k.endswith(ending)]
    tensors[key][5, 3] += 0.001
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{ending} is a copy of the base's weight and differs"):
        open_sources({"x": f"{base}+{lora}"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("of_base", [torch.bfloat16, torch.float16, torch.float32])
def test_a_copy_may_be_rounded_to_the_dtype_of_training(
    dtype: torch.dtype, of_base: torch.dtype, tmp_path: Path
) -> None:
    base, lora, _ = saved(tmp_path)
    weights = load_file(base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    save_model(base, {n: t.to(of_base) for n, t in weights.items()}, config)
    tensors = load_file(lora / "adapter_model.safetensors")
    for key, tensor in tensors.items():
        if "base_layer" in key:
            tensors[key] = tensor.to(of_base).to(dtype)
    save_file(tensors, lora / "adapter_model.safetensors")
    assert "lm_head.weight" in open_sources({"x": f"{base}+{lora}"})["x"].tensors


EMBEDDING, HEAD = "base_model.model.model.embed_tokens.", "base_model.model.lm_head."


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no tensors"),
        ({f"{EMBEDDING}weight": torch.tensor(1.0)}, r"base \[40, 16\], adapter \[\]"),
        ({f"{EMBEDDING}weight": torch.zeros(40, 17)}, r"base \[40, 16\], adapter \[40, 17\]"),
        ({f"{EMBEDDING}base_layer.weight": torch.tensor(1.0)}, "adapter .*of another shape"),
        ({f"{EMBEDDING}base_layer.weight": torch.zeros(40, 16, dtype=torch.uint8)}, "and differs from"),
        ({f"{HEAD}weight": torch.zeros(44, 16)}, "not resized together"),
        ({f"{HEAD}lora_A.weight": torch.zeros(2, 16)}, "not a product of two matrices"),
        (
            {f"{HEAD}lora_A.weight": torch.zeros(2, 16), f"{HEAD}lora_B.weight": torch.zeros(44, 2)},
            r"adapter \[44, 16\]\. If tokens were added in training, save it with save_embedding_layers",
        ),
        (
            {f"{HEAD}weight": torch.zeros(40, 16), f"{HEAD}modules_to_save.weight": torch.ones(40, 16)},
            "two weights for lm_head.weight, and they differ",
        ),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused_by_name(
    tensors: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    base, lora, _ = saved(tmp_path)
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_sources({"x": f"{base}+{lora}"})


def test_a_vocabulary_that_is_resized_in_part_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tied=False)
    case = Case({"target_modules": [*Q, "embed_tokens"]}, ties=False, rows=MORE, base_ties=False)
    make_adapter(base, tmp_path / "lora", case)  # PEFT does not save the head that was resized with it
    with pytest.raises(
        CheckpointError, match=r"resized together: lm_head.weight 40, .*embed_tokens.weight 46"
    ):
        open_sources({"x": f"{base}+{tmp_path / 'lora'}"})


def test_a_head_that_was_resized_and_not_saved_is_not_taken_for_the_embedding(tmp_path: Path) -> None:
    base, lora, live = saved(tmp_path, "more rows, embedding saved")
    tensors = load_file(lora / "adapter_model.safetensors")
    del tensors["base_model.model.lm_head.weight"]
    save_file(tensors, lora / "adapter_model.safetensors")
    merge(
        f"{base}+{lora}", tmp_path / "out"
    )  # the head is the embedding before training, of which there is a copy
    torch.testing.assert_close(answers(tmp_path / "out"), live, rtol=1e-5, atol=1e-5)
    del tensors["base_model.model.model.embed_tokens.original_module.weight"]
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"resized together: .*embed_tokens.weight 46, lm_head.weight 40"
    ):
        open_sources({"x": f"{base}+{lora}"})


# --------------------------------------------------------------------- tokens that were added


def with_tokenizers(tmp_path: Path) -> Path:
    """A base with a tokenizer and padded rows, and an adapter with one that knows two tokens more."""
    base = make_base(tmp_path / "base")
    save(bpe(["a+b", "c+d"], chat_template="base"), base)
    case = CASES["more rows, both saved"]
    make_adapter(base, tmp_path / "lora", case)
    save(bpe(["a+b", "c+d"], ["</s>", "<|x|>", "<|y|>"], chat_template="adapter"), tmp_path / "lora")
    return base


def test_the_tokenizer_of_the_adapter_goes_with_it(tmp_path: Path) -> None:
    base = with_tokenizers(tmp_path)
    merge(f"{base}+{tmp_path / 'lora'}", tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.tokenize("ab<|y|>") == ["ab", "<|y|>"]
    assert tokenizer.chat_template == "adapter"


def test_added_tokens_take_part_in_a_union(tmp_path: Path) -> None:
    base = with_tokenizers(tmp_path)
    tuned = f"{base}+{tmp_path / 'lora'}"
    document = {
        "merge_method": "linear",
        "models": [{"model": m, "parameters": {"weight": 0.5}} for m in (tuned, tuned)],
        "tokenizer_source": "union",
    }
    recipe = parse_recipe(document)
    checkpoints = open_sources({r: r for r in recipe.references()})
    merge_to_disk(recipe, checkpoints, tmp_path / "out")
    ids = load_tokenizer(tmp_path / "out").get_vocab()
    merged = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(merged[ids["<|y|>"]], row(checkpoints[tuned], tmp_path / "lora", "<|y|>"))


def row(checkpoint: Checkpoint, tokenizer: Path, token: str) -> torch.Tensor:
    """The embedding of a token in a model with the tokenizer of a folder."""
    return checkpoint.read("model.embed_tokens.weight")[load_tokenizer(tokenizer).get_vocab()[token]]
