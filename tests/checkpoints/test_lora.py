"""LoRA adapters: what PEFT merges, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import MakeModel

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.checkpoints.lora import adapt
from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import identities, open_sources
from evomerge.errors import CheckpointError
from evomerge.recipe import parse_recipe

SETTINGS: list[dict[str, Any]] = [
    {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"]},
    {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj"], "use_rslora": True},
    {"r": 4, "lora_alpha": 6, "target_modules": ["v_proj", "embed_tokens"]},
    {"r": 4, "lora_alpha": 6, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["v_proj", "up_proj"],
        "rank_pattern": {"up_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 20},
    },
    {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "use_dora": True},
    {"r": 4, "lora_alpha": 6, "target_modules": ["v_proj", "embed_tokens"], "use_dora": True},
    {"r": 4, "target_modules": ["v_proj"], "trainable_token_indices": [3, 1]},
    {"r": 4, "target_modules": ["v_proj"], "trainable_token_indices": {"lm_head": [2], "embed_tokens": [0]}},
]
GPT2: dict[str, Any] = {"r": 2, "lora_alpha": 5, "target_modules": ["c_attn"], "fan_in_fan_out": True}
OTHERS = [
    ("gpt2", GPT2),
    ("gpt2", GPT2 | {"use_dora": True}),
    ("gpt2", GPT2 | {"bias": "all"}),
    ("gpt2", GPT2 | {"bias": "lora_only", "lora_bias": True}),
    ("resnet", {"r": 2, "lora_alpha": 5, "target_modules": ["convolution"]}),
    ("resnet", {"r": 2, "lora_alpha": 5, "target_modules": ["convolution"], "use_dora": True}),
    (
        "vit",
        {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "projection"], "alpha_pattern": {"q_proj": 9}},
    ),
]


def make_other(kind: str, folder: Path) -> Path:
    """A tiny model: weights stored transposed, convolutions (resnet), or other names in files (vit)."""
    from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

    torch.manual_seed(0)
    if kind == "gpt2":
        GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=30)).save_pretrained(folder)
        return folder
    if kind == "vit":
        width = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        ViTModel(ViTConfig(num_hidden_layers=1, image_size=8, patch_size=4, **width)).save_pretrained(folder)
        return folder
    sizes = {"embedding_size": 4, "hidden_sizes": [8], "depths": [1]}
    ResNetModel(ResNetConfig(**sizes, layer_type="basic")).save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A random adapter, saved by PEFT; the weights that PEFT itself merges, under the names of files."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoModelForCausalLM

    plain = (AutoModel if base.name in ("resnet", "vit") else AutoModelForCausalLM).from_pretrained(base)
    model = get_peft_model(plain, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.save_pretrained(str(folder))
    model.merge_and_unload().save_pretrained(folder.with_name("merged"))
    return load_file(folder.with_name("merged") / "model.safetensors")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(sorted(s)))
def test_an_adapter_gives_what_peft_merges(
    settings: dict[str, Any], make_model: MakeModel, tmp_path: Path
) -> None:
    check_against_peft(make_model("base", 0), settings, tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(("kind", "settings"), OTHERS, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_transposed_weights_biases_and_convolutions_are_what_peft_merges(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    check_against_peft(make_other(kind, tmp_path / kind), settings, tmp_path)


def check_against_peft(base: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    want = make_adapter(base, tmp_path / "lora", settings)
    checkpoint = open_sources({"tuned": f"{base}+{tmp_path / 'lora'}"})["tuned"]
    plain = open_checkpoint(base)
    changed = [n for n in plain.tensors if not torch.equal(plain.read(n), want[n])]
    assert changed
    for name in plain.tensors:
        torch.testing.assert_close(checkpoint.read(name), want[name], rtol=1e-6, atol=1e-6)
        assert checkpoint.is_mapped(name) == (name not in changed)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapted_model_merges_in_memory_as_on_disk(make_model: MakeModel, tmp_path: Path) -> None:
    base, other = make_model("base", 0), make_model("other", 1)
    want = make_adapter(base, tmp_path / "lora", SETTINGS[0])
    sources = {"tuned": f"{base}+{tmp_path / 'lora'}", "other": str(other), "base": str(base)}
    checkpoints = open_sources(sources)
    recipe = parse_recipe(
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [{"model": m, "parameters": {"weight": 1, "density": 0.5}} for m in ("tuned", "other")],
        }
    )
    fingerprint = TransformersModel(checkpoints).load(recipe)
    assert merge_to_disk(recipe, checkpoints, tmp_path / "out").fingerprint == fingerprint
    alone = parse_recipe({"merge_method": "passthrough", "models": [{"model": "tuned"}]})
    merge_to_disk(alone, checkpoints, tmp_path / "alone")
    for name, tensor in load_file(tmp_path / "alone" / "model.safetensors").items():
        torch.testing.assert_close(tensor, want[name], rtol=1e-6, atol=1e-6)
    assert identities(checkpoints)["tuned"].startswith(identities(checkpoints)["base"])
    assert identities(checkpoints)["tuned"] != identities(checkpoints)["base"]


def write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2} | config)
    )
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


Q = "base_model.model.model.layers.0.self_attn.q_proj"
TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"peft_type": "IA3"}, {}, "is a IA3 adapter"),
        ({"use_qalora": True}, {}, "use_qalora is not supported"),
        ({}, {TOKENS: torch.zeros(1, 32)}, "trainable_token_indices names no tokens of model.embed_tokens"),
        ({"trainable_token_indices": [10**6]}, {TOKENS: torch.zeros(1, 32)}, "names no tokens"),
        (
            {"trainable_token_indices": {"embed_tokens": [1]}},
            {TOKENS: torch.zeros(2, 32)},
            r"adapter \[2, 32\]",
        ),
        ({"alora_invocation_tokens": [1, 2]}, {}, "alora_invocation_tokens is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, "its training began by changing the base model"),
        ({"bias": "all"}, {f"{Q}.bias": torch.zeros(32)}, "q_proj.bias"),
        ({}, {f"{Q}.lora_magnitude_vector": torch.zeros(32)}, "not a product of two matrices"),
        (
            {},
            {
                f"{Q}.lora_A.weight": torch.zeros(2, 32),
                f"{Q}.lora_B.weight": torch.zeros(32, 2),
                f"{Q}.lora_magnitude_vector": torch.zeros(31),
            },
            r"base \[32, 32\], adapter \[\]",
        ),
        ({}, {f"{Q}z.lora_A.weight": torch.zeros(2, 32)}, "q_projz"),
        (
            {},
            {f"{Q}.lora_A.weight": torch.zeros(2, 31), f"{Q}.lora_B.weight": torch.zeros(32, 2)},
            r"base \[32, 32\], adapter \[32, 31\]",
        ),
        (
            {},
            {
                f"{Q}.base_layer.weight": torch.zeros(1, 32),
                f"{Q}.lora_A.weight": torch.zeros(2, 32),
                f"{Q}.lora_B.weight": torch.zeros(32, 2),
            },
            r"base \[32, 32\], adapter \[1, 32\]",
        ),
        ({}, {f"{Q}.lora_A.weight": torch.zeros(2, 32)}, "not a product of two matrices"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    message: str,
    make_model: MakeModel,
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "lora", config, tensors)
    with pytest.raises(CheckpointError, match=message):
        adapt(open_checkpoint(make_model("base", 0)), folder)
