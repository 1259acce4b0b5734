"""Layer-stacks keep the kind of each layer, and configurations that disagree are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from evomerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from evomerge.engine.disagreements import config_warnings
from evomerge.engine.export import merge_to_disk
from evomerge.errors import RecipeError
from evomerge.recipe import parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW = {"head_dim": 8, "sliding_window": 8}
# For each family: settings beside SMALL, and the lists by layer that its released configurations leave out.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Gemma2Config": (WINDOW, {}),
    "Gemma3TextConfig": (WINDOW, {"sliding_window_pattern": 6, "_sliding_window_pattern": None}),
    "Cohere2Config": (WINDOW, {"sliding_window_pattern": 4, "_sliding_window_pattern": None}),
    "Qwen2Config": ({**WINDOW, "use_sliding_window": True, "max_window_layers": 4}, {}),
    "Qwen3Config": ({**WINDOW, "use_sliding_window": True, "max_window_layers": 4}, {}),
    "SmolLM3Config": ({"no_rope_layer_interval": 4}, {}),
    "Olmo3Config": (WINDOW, {}),
    "Exaone4Config": ({**WINDOW, "sliding_window_pattern": 4}, {"sliding_window_pattern": 4}),
    "GptOssConfig": ({**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}, {}),
    "Llama4TextConfig": (
        {
            "head_dim": 8,
            "interleave_moe_layer_step": 2,
            "num_local_experts": 2,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": 8,
        },
        {},
    ),
    "Qwen3MoeConfig": ({**WINDOW, **EXPERTS, "mlp_only_layers": [1, 5]}, {}),
}
LISTS = ("layer_types", "no_rope_layers", "moe_layers", "mlp_only_layers")
FIRST, SECOND = (0, 5), (2, 8)
KEPT_ORDER = [*range(*FIRST), *range(*SECOND)]


def save(folder: Path, name: str, family: str, seed: int) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    config = getattr(transformers, family)(**{**SMALL, **FAMILIES[family][0]})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.05)
    model.save_pretrained(folder / name)
    return model


def as_released(folder: Path, rule: Mapping[str, Any]) -> None:
    """Takes the lists by layer out of the configuration; what is left is a rule."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for key in ("layer_types", "no_rope_layers", "moe_layers"):
        config.pop(key, None)
    config |= rule
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def stacked(folder: Path, name: str) -> Path:
    document = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": m, "layer_range": list(r)}]} for m, r in (("a", FIRST), ("b", SECOND))
        ],
        "dtype": "float32",
    }
    models = {m: open_checkpoint(folder / m) for m in "ab"}
    merge_to_disk(parse_recipe(document), models, folder / name)
    return folder / name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_keeps_the_kind_of_each_layer_where_the_configuration_has_only_a_rule(
    family: str, tmp_path: Path
) -> None:
    sources = {name: save(tmp_path, name, family, seed) for seed, name in enumerate("ab")}
    explicit = transformers.AutoModelForCausalLM.from_pretrained(stacked(tmp_path, "explicit"))
    for name in "ab":
        as_released(tmp_path / name, FAMILIES[family][1])
    made, report = transformers.AutoModelForCausalLM.from_pretrained(
        stacked(tmp_path, "from_rule"), output_loading_info=True
    )

    assert not any(report.values())
    known = sources["a"].config.to_dict()
    for key in LISTS:
        value = known.get(key)
        if isinstance(value, list) and len(value) == SMALL["num_hidden_layers"]:
            assert getattr(made.config, key) == [value[i] for i in KEPT_ORDER], key
        elif isinstance(value, list):
            assert getattr(made.config, key) == [n for n, i in enumerate(KEPT_ORDER) if i in value], key
    ids = torch.arange(3, 33)[None]
    with torch.no_grad():
        assert torch.equal(made(ids).logits, explicit(ids).logits)


def test_a_scale_that_follows_from_the_position_of_a_layer_is_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=8, n_head=4, scale_attn_by_inverse_layer_idx=True
    )
    for name in "ab":
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / name)
    with pytest.raises(RecipeError, match="scale_attn_by_inverse_layer_idx"):
        stacked(tmp_path, "out")
    assert not (tmp_path / "out").exists()


def checkpoint(folder: Path, config: transformers.PretrainedConfig, **changes: Any) -> Checkpoint:
    return Checkpoint(folder, {**config.to_dict(), "architectures": None, **changes}, {}, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, "rope_theta"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ({"num_attention_heads": 8, "head_dim": 4}, "num_attention_heads"),
        ({"max_position_embeddings": 4096}, "max_position_embeddings"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_settings_that_change_the_computation_are_told(
    change: dict[str, Any], field: str, tmp_path: Path
) -> None:
    config = transformers.LlamaConfig(**SMALL)
    models = {"base": checkpoint(tmp_path, config), "other": checkpoint(tmp_path, config, **change)}
    told = config_warnings(models, "base")
    assert any(field in text and "The output has that of base." in text for text in told)


def test_llama_with_mistral_is_told_and_its_window_too(tmp_path: Path) -> None:
    models = {
        "llama": checkpoint(tmp_path, transformers.LlamaConfig(**SMALL)),
        "mistral": checkpoint(tmp_path, transformers.MistralConfig(**SMALL, sliding_window=16)),
    }
    told = "\n".join(config_warnings(models, "llama"))
    assert "model_type" in told
    assert "sliding_window" in told


def test_settings_that_say_the_same_in_other_words_are_not_told(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**SMALL)
    short = {k: SMALL[k] for k in SMALL} | {"model_type": "llama"}
    models = {
        "base": checkpoint(tmp_path, config),
        "short": Checkpoint(tmp_path, short, {}, None),  # type: ignore[arg-type]
        "noisy": checkpoint(
            tmp_path, config, use_cache=False, transformers_version="4.1", _name_or_path="x", eos_token_id=5
        ),
    }
    assert config_warnings(models, "base") == []


def test_a_language_model_alone_is_compared_with_the_decoder_of_a_model_of_several_towers(
    tmp_path: Path,
) -> None:
    text = transformers.MistralConfig(**SMALL, head_dim=8)
    whole = transformers.Mistral3Config(text_config=text.to_dict())
    classes = ["Mistral3ForConditionalGeneration"]
    models = {
        "whole": checkpoint(tmp_path, whole, architectures=classes),
        "text": checkpoint(tmp_path, text),
    }
    assert config_warnings(models, "whole") == []
    models["text"] = checkpoint(tmp_path, text, rms_norm_eps=1e-3)
    (told,) = config_warnings(models, "whole")
    assert "rms_norm_eps" in told
