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
    "num_encoder_layers": 2,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
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


CAUSAL, MASKED, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM"
IMAGE, IMAGE_TEXT, BASE = "AutoModelForImageClassification", "AutoModelForImageTextToText", "AutoModel"
CTC, SPEECH = "AutoModelForCTC", "AutoModelForSpeechSeq2Seq"

Settings = dict[str, Any]

_MLA: Settings = {"num_key_value_heads": 4}
_HYBRID: Settings = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_DECODER_PART: Settings = {"encoder_layers": 3}

DECODERS = """
    afmoe apertus arcee aria_text beam bert bert-generation big_bird biogpt bitnet bloom camembert codegen cohere
    cohere2 cohere2_moe ctrl cwm data2vec-text deepseek_v4 diffllama doge electra ernie ernie4_5 ernie4_5_moe
    exaone4 exaone_moe falcon falcon_mamba flex_olmo flint gemma gemma2 gemma3_text glm glm4 glm4_moe gpt-sw3 gpt2
    gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax inkling_text
    internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lfm2 lfm3 llama llama4_text mamba megatron-bert mellum
    mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder mpt
    nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt persimmon phi phi3 phimoe
    prophetnet qwen2 qwen2_moe qwen3 qwen3_moe recurrent_gemma rembert roberta roberta-prelayernorm roformer rwkv
    seed_oss smollm3 solar_open stablelm starcoder2 trocr vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl
    xlnet
"""
SPECIAL_DECODERS: dict[str, Settings] = {
    "axk1": _MLA,
    "axk2": _MLA,
    "bailing_hybrid": {},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {},
    "cohere_compass_text": {},
    "cpmant": {},
    "dbrx": {},
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA,
    "deepseek_v32": _MLA,
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "fuyu": {"text_config": {"model_type": "persimmon"}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 16},
    "gemma4_unified_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 16},
    "glm4_moe_lite": _MLA,
    "glm_moe_dsa": _MLA,
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granitemoehybrid": _HYBRID,
    "hrm_text": {"num_layers_per_stack": 3},
    "inkling2_text": {},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {},
    "mamba2": {"num_heads": 8},
    "minicpm3": _MLA,
    "moshi": {},
    "phi4_multimodal": {},
    "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "qwen4_exp_text": _HYBRID,
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "attn_layers": ["local", "lsh", "local"],
        "num_buckets": 2,
    },
    "roc_bert": {},
    "xlstm": {},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "youtu": {**_MLA, "pad_token_id": None},  # its loader sets the row of the padding token to zero
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
    **dict.fromkeys(
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart".split(),
        _DECODER_PART,
    ),
}
STACKS: dict[str, tuple[tuple[int, int], ...]] = {
    "jamba": ((0, 2), (0, 2)),  # its configuration can only say that layers alternate
    "zamba2": ((0, 2), (2, 3), (2, 3)),
}
ENCODERS = """
    albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm eurobert
    flaubert fnet gte ibert jina_embeddings_v3 layoutlm longformer megatron-bert mobilebert modernbert mpnet mra
    nomic_bert nystromformer rembert roberta roberta-prelayernorm roformer squeezebert tapas ultrabert xlm
    xlm-roberta xlm-roberta-xl yoso
"""
SEQ2SEQ_MODELS = """
    bart bigbird_pegasus blenderbot blenderbot-small led longt5 m2m_100 marian mbart mt5 mvp nllb-moe pegasus
    pegasus_x plbart prophetnet switch_transformers t5 t5gemma umt5
"""
IMAGES = "beit clip data2vec-vision deit dinov2 dinov2_with_registers focalnet ijepa metaclip_2 mobilenet_v2 siglip vit vit_msn"


def decoders() -> list[Case]:
    """Decoders of text: attention, mixtures of experts, state spaces, and hybrids."""
    settings = {**dict.fromkeys(DECODERS.split(), Settings()), **SPECIAL_DECODERS}
    return [
        Case(name, settings=own, stack=STACKS.get(name, ((0, 2), (1, 3)))) for name, own in settings.items()
    ]


def others() -> list[Case]:
    """Encoders, encoder-decoders, vision, vision-language, audio."""
    return [
        *(Case(name, "encoder", auto=MASKED) for name in ENCODERS.split()),
        *(Case(name, "encoder-decoder", auto=SEQ2SEQ, inputs="pair") for name in SEQ2SEQ_MODELS.split()),
        *(Case(name, "vision", auto=IMAGE, inputs="image") for name in IMAGES.split()),
    ]


def inputs(case: Case) -> dict[str, Any]:
    """What a forward pass of ``case`` is given."""
    import torch

    tokens = torch.arange(3, 11).view(1, -1)
    generator = torch.Generator().manual_seed(3)
    match case.inputs:
        case "text":
            return {"input_ids": tokens}
        case "pair":
            return {"input_ids": tokens, "decoder_input_ids": tokens[:, :6]}
        case "image":
            return {"pixel_values": torch.randn(1, 3, 16, 16, generator=generator)}
        case "wave":
            return {"input_values": torch.randn(1, 800, generator=generator)}
        case _:
            return {"input_features": torch.randn(1, 8, 64, generator=generator), "decoder_input_ids": tokens}


def build(case: Case, seed: int) -> Any:
    """A model of ``case`` with random weights: none of them zero or one by its initialisation."""
    import torch
    import transformers

    config = tiny_config(case.model_type, case.settings)
    torch.manual_seed(seed)
    auto = getattr(transformers, case.auto)
    model = auto.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()
