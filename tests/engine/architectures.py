"""Tiny models of many architectures, built from transformers' own configuration classes.

``SIZES`` shrinks what most configurations call alike; ``CASES`` says what else one needs. The engine knows
nothing of this: it is only how the test gets its models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "d_model": 32,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "n_inner": 48,
    "n_ctx": 64,
    "dff": 48,
    "ffn_dim": 48,
    "num_layers": 3,
    "num_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_hidden_size": 32,
    "d_kv": 8,
    "d_ff": 48,
    "d_inner": 48,
    "num_decoder_layers": 3,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 16,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_size": 16,
    "patch_size": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "state_size": 4,
    "time_step_rank": 4,
    "mamba_d_state": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_groups": 1,
    "sliding_window": 8,
    "num_codebooks": 2,
    "block_size": 8,
    "projection_dim": 16,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
    "max_source_positions": 32,
    "max_target_positions": 64,
    "num_mel_bins": 8,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "emb_dim": 32,
    "rotary_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "dtype": "float32",
}


@dataclass(frozen=True)
class Case:
    """One architecture: transformers' model type, what its configuration needs besides ``SIZES``.

    ``auto`` is the Auto class that loads it; ``stack`` are the layers of the first and second model that the
    layer-stack is made of, or ``None`` with ``why_no_stack``. ``inputs`` says what a forward pass is given.
    """

    model_type: str
    kind: str = "decoder"
    settings: Mapping[str, Any] = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"
    inputs: str = "text"
    stack: tuple[tuple[int, int], ...] | None = None
    why_no_stack: str = ""
    tolerance: float = 1e-4

    @property
    def name(self) -> str:
        """The model type, and what the Auto class is for where one type is loaded by several."""
        return f"{self.model_type}-{self.auto.removeprefix('AutoModel').removeprefix('For') or 'Model'}"


def tiny_config(model_type: str, settings: Mapping[str, Any] = {}) -> Any:
    """The configuration of ``model_type``, as small as ``SIZES`` and ``settings`` make it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[model_type], dict(settings))


def _tiny(config_class: Any, settings: dict[str, Any]) -> Any:
    names = {f.name for f in dataclasses.fields(config_class)}
    arguments = {k: v for k, v in SIZES.items() if k in names}
    for name, part in (config_class.sub_configs or {}).items():
        own = settings.pop(name, {})
        if not isinstance(own, dict):
            arguments[name] = own
        elif part.__name__ == "AutoConfig":
            arguments[name] = tiny_config(
                own["model_type"], {k: v for k, v in own.items() if k != "model_type"}
            )
        else:
            arguments[name] = _tiny(part, {k: v for k, v in own.items() if k != "model_type"})
    return config_class(**{**arguments, **settings})
