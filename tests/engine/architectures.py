"""Tiny models of many architectures, built from transformers' own configuration classes.

``SIZES`` shrinks what most configurations call alike; the tables below say what else one needs. The engine
knows nothing of this: it is only how the tests get their models.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

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


Settings = dict[str, Any]
CAUSAL, MASKED, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM"
IMAGE, IMAGE_TEXT, BASE = "AutoModelForImageClassification", "AutoModelForImageTextToText", "AutoModel"
CTC, SPEECH = "AutoModelForCTC", "AutoModelForSpeechSeq2Seq"


@dataclass(frozen=True, eq=False)
class Case:
    """One architecture: transformers' model type, and what its configuration needs besides ``SIZES``.

    ``auto`` is the Auto class that loads it, ``inputs`` names what a forward pass is given. ``stack`` are the
    layers, of the first and the second model in turn, that a layer-stack is made of; ``refused`` is part of
    the message where the engine refuses it.
    """

    model_type: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    auto: str = CAUSAL
    inputs: str = "text"
    stack: tuple[tuple[int, int], ...] | None = None
    refused: str | None = None

    @property
    def name(self) -> str:
        """``llama``, or ``bart-Seq2SeqLM`` where it is no causal language model."""
        head = self.auto.removeprefix("AutoModel").removeprefix("For") or "Model"
        return self.model_type if self.auto == CAUSAL else f"{self.model_type}-{head}"


# --------------------------------------------------------------------- decoders

_MLA: Settings = {"num_key_value_heads": 4}
_HYBRID: Settings = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_ROPE: Settings = {"rope_type": "default", "rope_theta": 1e4}
_NO_PER_LAYER_INPUT: Settings = {"hidden_size_per_layer_input": 0, "global_head_dim": 16}
_LSH: Settings = {
    "axial_pos_embds": False,
    "lsh_attn_chunk_length": 8,
    "local_attn_chunk_length": 8,
    "attn_layers": ["local", "lsh", "local"],
    "num_buckets": 2,
}

PLAIN_DECODERS = """
    afmoe apertus arcee aria_text beam bert bert-generation big_bird biogpt bitnet bloom camembert codegen
    cohere cohere2 cohere2_moe cpmant ctrl cwm data2vec-text deepseek_v4 diffllama doge electra ernie
    ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_mamba flex_olmo flint gemma gemma2 gemma3_text
    glm glm4 glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa
    granitemoe granitemoe_swa granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4
    hyperclovax inkling2_text inkling_text internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lfm2 lfm3
    llama llama4_text mamba megatron-bert mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text
    ministral ministral3 mistral mixtral modernbert-decoder mpt nanochat nemotron nemotron_h olmo olmo2
    olmo3 olmo_hybrid olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe
    recurrent_gemma rembert roberta roberta-prelayernorm roformer rwkv seed_oss smollm3 solar_open stablelm
    starcoder2 trocr vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet
"""
DECODERS_OF_PAIRS = "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart"
SPECIAL_DECODERS: dict[str, Settings] = {
    "axk1": _MLA,
    "axk2": _MLA,
    "bailing_hybrid": {**_HYBRID, **_MLA},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
    },
    "dbrx": {
        "max_seq_len": 64,
        "ffn_config": {"ffn_hidden_size": 16, "hidden_size": 32},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
    },
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA,
    "deepseek_v32": _MLA,
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "fuyu": {"text_config": {"model_type": "persimmon"}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": _NO_PER_LAYER_INPUT,
    "gemma4_unified_text": _NO_PER_LAYER_INPUT,
    "glm4_moe_lite": _MLA,
    "glm_moe_dsa": _MLA,
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granitemoehybrid": _HYBRID,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {**_HYBRID, **_MLA, "linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": {
        **_MLA,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "moe_topk": 2,
        "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": 8},
    "minicpm3": _MLA,
    "moshi": {"audio_encoder_config": {"model_type": "mimi"}},
    "prophetnet": {"num_encoder_layers": 3},
    "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "qwen4_exp_text": {
        **_HYBRID,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 64,
        "split_ngram_parts": 2,
    },
    "reformer": {**_LSH, "is_decoder": True},
    "roc_bert": {"pronunciation_vocab_size": 16, "shape_vocab_size": 16},
    "xlstm": {"hidden_size": 128, "num_heads": 2},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "youtu": {**_MLA, "pad_token_id": None},  # loading sets the row of a padding token to zero
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
}
STACKS: dict[str, tuple[tuple[int, int], ...]] = {
    "jamba": ((0, 2), (0, 2)),  # its configuration can only say that kinds of layers alternate
    "zamba2": ((0, 2), (2, 3), (2, 3)),  # adapters are numbered by the layers that have one
}
REFUSED = {
    "albert": "goes beyond the 1 layers",  # all layers share one layer's weights
    "esm": "esm.contact_head.regression.weight",  # reads the attention of every layer
    "nllb-moe": "would be of another kind",  # every other layer has experts
    "diffllama": "lambda_init",  # grows with the position
    "minicpm3": "residual_scale",  # falls with the number of layers
    "minimax": "num_hidden_layers",  # slopes of the decay, by position and number of layers
    "gemma3n_text": r"embed_tokens_per_layer.weight is \[64, 24\], not \[64, 32\]",  # a block for each layer
    "hrm_text": "its configuration cannot describe these layers",  # two stacks, one count
    "inkling2_text": "lacks weights of .*layers.3.attention_input",  # queries of layers stand outside them
}

# --------------------------------------------------------------------- encoders, pairs of the two

PLAIN_ENCODERS = """
    albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm
    eurobert flaubert fnet gte ibert jina_embeddings_v3 layoutlm longformer megatron-bert mobilebert
    modernbert mpnet mra nomic_bert nystromformer rembert roberta roberta-prelayernorm roformer squeezebert
    tapas ultrabert xlm xlm-roberta xlm-roberta-xl yoso
"""
STACKED_ENCODERS = ("albert", "bert", "esm", "modernbert", "xlm")
SPECIAL_ENCODERS: dict[str, Settings] = {
    "esmc": _MLA,
    "funnel": {"block_sizes": [1, 1], "block_repeats": [1, 1], "pad_token_id": None},  # as youtu
    "luke": {"entity_vocab_size": 16, "entity_emb_size": 8},
    "reformer": {**_LSH, "is_decoder": False},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
PLAIN_PAIRS = """
    bart bigbird_pegasus blenderbot blenderbot-small led longt5 m2m_100 marian mbart mt5 mvp nllb-moe
    pegasus pegasus_x plbart switch_transformers t5 t5gemma umt5
"""
SPECIAL_PAIRS: dict[str, Settings] = {
    "encoder-decoder": {
        "encoder": {"model_type": "bert", "num_hidden_layers": 2},
        "decoder": {"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
    },
    "fsmt": {"src_vocab_size": 64, "tgt_vocab_size": 64, "decoder": {"vocab_size": 64}},
    "prophetnet": {"num_encoder_layers": 3},
}

# --------------------------------------------------------------------- vision

_FOUR: Settings = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
_TWO: Settings = {"hidden_sizes": [8, 16], "depths": [1, 1]}
_WINDOWS: Settings = {
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 2,
    "patch_size": 4,
    "image_size": 32,
}
IMAGES: dict[str, Settings] = {
    "beit": {},
    "bit": {**_TWO, "embedding_size": 8, "num_groups": 2, "layer_type": "bottleneck"},
    "clip": {},
    "convnext": {**_TWO, "num_stages": 2},
    "convnextv2": {**_TWO, "num_stages": 2},
    "data2vec-vision": {},
    "deit": {"architectures": ["DeiTForImageClassification"]},
    "dinov2": {},
    "dinov2_with_registers": {},
    "focalnet": {"depths": [1, 1]},
    "ijepa": {},
    "metaclip_2": {},
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 32},
    "mobilevit": {"hidden_sizes": [8] * 3, "neck_hidden_sizes": [8] * 7, "image_size": 32, "patch_size": 2},
    "poolformer": _FOUR,
    "pvt": {**_FOUR, "num_attention_heads": [1, 2, 2, 2], "image_size": 32, "patch_size": 4},
    "regnet": {**_TWO, "embedding_size": 8, "groups_width": 4},
    "resnet": {**_TWO, "embedding_size": 8},
    "segformer": {**_FOUR, "num_attention_heads": [1, 2, 2, 2], "decoder_hidden_size": 8},
    "siglip": {},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "vit": {},
    "vit_msn": {},
}
SMALL_IMAGES = (
    "beit clip data2vec-vision deit dinov2 dinov2_with_registers ijepa metaclip_2 siglip vit vit_msn"
)

# --------------------------------------------------------------------- vision and language

_CLIP: Settings = {"model_type": "clip_vision_model", "num_hidden_layers": 2}
_SIGLIP: Settings = {"model_type": "siglip_vision_model", "num_hidden_layers": 2}
_PIXTRAL: Settings = {"model_type": "pixtral", "num_hidden_layers": 2}
_SHALLOW: Settings = {"num_hidden_layers": 2}
_LLAMA: Settings = {"model_type": "llama"}
_MISTRAL: Settings = {"model_type": "mistral"}
_QWEN2: Settings = {"model_type": "qwen2"}
_QWEN_VISION: Settings = {
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 4,
    "mlp_ratio": 2,
    "hidden_size": 32,
    "patch_size": 4,
    "out_hidden_size": 32,
    "intermediate_size": 48,
    "fullatt_block_indexes": [1],
}
_QWEN3_VISION: Settings = {**_QWEN_VISION, "deepstack_visual_indexes": [1], "num_position_embeddings": 16}
_MROPE: Settings = {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}}
_TOKENS: Settings = {"image_token_id": 60, "video_token_id": 61}
_LLAVA: Settings = {"image_token_index": 60, "vision_feature_layer": -1}
_LLAVA_VIDEO: Settings = {**_LLAVA, "video_token_index": 61}
_GRID: Settings = {"image_grid_pinpoints": [[16, 16]]}

IMAGE_TEXTS: dict[str, Settings] = {
    "aria": {"vision_config": {**_SHALLOW, "model_type": "idefics3_vision"}, "image_token_index": 60},
    "aya_vision": {**_LLAVA, "vision_config": _SIGLIP, "text_config": {"model_type": "cohere2"}},
    "chameleon": {
        "vocabulary_map": {"<image>": 60},
        "vq_config": {
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "resolution": 16,
        },
    },
    "cohere2_vision": {
        "vision_config": _SIGLIP,
        "text_config": {"model_type": "cohere2"},
        "image_token_id": 60,
    },
    "deepseek_vl": {"vision_config": _SIGLIP, "text_config": _LLAMA, "image_token_id": 60},
    "gemma3": {
        "vision_config": _SIGLIP,
        "text_config": {"model_type": "gemma3_text"},
        "image_token_index": 60,
        "boi_token_index": 61,
        "eoi_token_index": 62,
        "mm_tokens_per_image": 4,
    },
    "gemma4": {"vision_config": _SHALLOW, "text_config": _NO_PER_LAYER_INPUT},
    "git": {"vision_config": _SHALLOW},
    "glm4v": {
        **_TOKENS,
        "vision_config": {**_QWEN_VISION, "num_position_embeddings": 16},
        "text_config": _MROPE,
    },
    "got_ocr2": {
        "vision_config": {**_SHALLOW, "output_channels": 32, "mlp_dim": 32, "global_attn_indexes": [1]},
        "text_config": _QWEN2,
        "image_token_index": 60,
    },
    "idefics2": {
        "vision_config": _SHALLOW,
        "text_config": _MISTRAL,
        "image_token_id": 60,
        "perceiver_config": {
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "resampler_n_latents": 4,
        },
    },
    "idefics3": {"vision_config": _SHALLOW, "text_config": _LLAMA, "image_token_id": 60, "scale_factor": 1},
    "internvl": {
        "vision_config": {**_SHALLOW, "image_size": [16, 16], "patch_size": [8, 8]},
        "text_config": _QWEN2,
        "image_token_id": 60,
    },
    "lfm2_vl": {
        "vision_config": {**_SHALLOW, "model_type": "siglip2_vision_model"},
        "text_config": {"model_type": "lfm2"},
        "image_token_id": 60,
    },
    "lighton_ocr": {"vision_config": _PIXTRAL, "text_config": {"model_type": "qwen3"}, "image_token_id": 60},
    "llama4": {
        "vision_config": {
            **_SHALLOW,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        "image_token_index": 60,
    },
    "llava": {**_LLAVA, "vision_config": _CLIP, "text_config": _LLAMA},
    "llava_next": {**_LLAVA, **_GRID, "vision_config": _CLIP, "text_config": _LLAMA},
    "llava_next_video": {**_LLAVA_VIDEO, **_GRID, "vision_config": _CLIP, "text_config": _LLAMA},
    "llava_onevision": {**_LLAVA_VIDEO, **_GRID, "vision_config": _SIGLIP, "text_config": _QWEN2},
    "mistral3": {**_LLAVA, "vision_config": _PIXTRAL, "text_config": _MISTRAL},
    "mllama": {
        "vision_config": {
            **_SHALLOW,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
            "attention_heads": 4,
            "supported_aspect_ratios": [[1, 1]],
            "max_num_tiles": 1,
        },
        "text_config": {"cross_attention_layers": [1]},
    },
    "ovis2": {
        "vision_config": {**_SHALLOW, "vocab_size": 64},
        "text_config": _QWEN2,
        "image_token_id": 60,
        "visual_indicator_token_ids": [50, 51, 52, 53, 54],
    },
    "paligemma": {
        "vision_config": _SIGLIP,
        "text_config": {"model_type": "gemma"},
        "image_token_index": 60,
        "projection_dim": 32,
    },
    "qwen2_5_vl": {**_TOKENS, "vision_config": _QWEN_VISION, "text_config": _MROPE},
    "qwen2_vl": {**_TOKENS, "vision_config": _QWEN_VISION, "text_config": _MROPE},
    "qwen3_5": {**_TOKENS, "vision_config": _QWEN3_VISION, "text_config": _HYBRID},
    "qwen3_5_moe": {**_TOKENS, "vision_config": _QWEN3_VISION, "text_config": _HYBRID},
    "qwen3_vl": {**_TOKENS, "vision_config": _QWEN3_VISION},
    "qwen3_vl_moe": {**_TOKENS, "vision_config": _QWEN3_VISION},
    "smolvlm": {"vision_config": _SHALLOW, "text_config": _LLAMA, "image_token_id": 60, "scale_factor": 1},
    "step3p7": {},
    "video_llava": {**_LLAVA_VIDEO, "vision_config": _CLIP, "text_config": _LLAMA},
    "vipllava": {
        "vision_config": _CLIP,
        "text_config": _LLAMA,
        "image_token_index": 60,
        "vision_feature_layers": [-1],
    },
    "vision-encoder-decoder": {
        "encoder": {"model_type": "vit", "num_hidden_layers": 2},
        "decoder": {"model_type": "gpt2", "add_cross_attention": True},
    },
}
TWO_TOWERS: dict[str, Settings] = {
    "altclip": {"text_config": {**_SHALLOW, "project_dim": 16}, "vision_config": _SHALLOW},
    "clip": {"text_config": _SHALLOW, "vision_config": _SHALLOW},
    "siglip": {"text_config": _SHALLOW, "vision_config": _SHALLOW},
}

# --------------------------------------------------------------------- audio

_WAVES: Settings = {
    "conv_dim": [16, 16],
    "conv_kernel": [4, 4],
    "conv_stride": [4, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
_AUDIO_TOWER: Settings = {"num_mel_bins": 8, "max_source_positions": 16}
WAVES: dict[str, Settings] = {
    "data2vec-audio": {**_WAVES, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2},
    "hubert": _WAVES,
    "sew": {**_WAVES, "squeeze_factor": 2},
    "sew-d": {**_WAVES, "squeeze_factor": 2},
    "unispeech": _WAVES,
    "unispeech-sat": _WAVES,
    "wav2vec2": _WAVES,
    "wav2vec2-conformer": _WAVES,
    "wavlm": _WAVES,
}
_MOONSHINE: Settings = {
    f"{part}_num_{what}": n
    for part, layers in (("encoder", 2), ("decoder", 3))
    for what, n in (("hidden_layers", layers), ("attention_heads", 4), ("key_value_heads", 4))
}


def decoders() -> list[Case]:
    """Decoders of text: attention, mixtures of experts, state spaces, and hybrids."""
    settings: dict[str, Settings] = {
        **{name: {} for name in PLAIN_DECODERS.split()},
        **{name: {"encoder_layers": 3} for name in DECODERS_OF_PAIRS.split()},
        **SPECIAL_DECODERS,
    }
    return [_stacked(Case(name, "decoder", own)) for name, own in sorted(settings.items())]


def _encoder(name: str, settings: Settings) -> Case:
    case = Case(name, "encoder", settings, MASKED)
    return _stacked(case) if name in STACKED_ENCODERS else case


def _pair(name: str, settings: Settings) -> Case:
    case = Case(name, "encoder-decoder", settings, SEQ2SEQ, "pair")
    # Its cache has as many layers as the encoder, whatever the decoder has.
    return case if name == "prophetnet" else _stacked(case)


def others() -> list[Case]:
    """Encoders, encoder-decoders, vision, vision-language, audio."""
    encoders = {name: {} for name in PLAIN_ENCODERS.split()} | SPECIAL_ENCODERS
    pairs = {name: {} for name in PLAIN_PAIRS.split()} | SPECIAL_PAIRS
    small = SMALL_IMAGES.split()
    return [
        *(_encoder(n, own) for n, own in encoders.items()),
        *(_pair(n, own) for n, own in pairs.items()),
        *(
            Case(n, "vision", own, IMAGE, "image" if n in small else "large image")
            for n, own in IMAGES.items()
        ),
        Case("imagegpt", "vision", {}, IMAGE),
        Case("vivit", "vision", {"num_frames": 2, "tubelet_size": [2, 8, 8]}, BASE, "video"),
        Case("videomae", "vision", {"num_frames": 2, "tubelet_size": 2}, BASE, "video"),
        *(_vision_language(n, own) for n, own in IMAGE_TEXTS.items()),
        *(Case(n, "vision-language", own, BASE, "text and image") for n, own in TWO_TOWERS.items()),
        *(Case(n, "audio", own, CTC, "wave") for n, own in WAVES.items()),
        *_audio(),
    ]


def _stacked(case: Case) -> Case:
    stack = STACKS.get(case.model_type, ((0, 2), (1, 3)))
    return dataclasses.replace(case, stack=stack, refused=REFUSED.get(case.model_type))


def _vision_language(name: str, settings: Settings) -> Case:
    case = Case(name, "vision-language", settings, IMAGE_TEXT)
    return dataclasses.replace(case, inputs="image pair") if "encoder" in settings else _stacked(case)


def _audio() -> list[Case]:
    parakeet = {
        "encoder_config": {"num_hidden_layers": 2, "subsampling_conv_channels": 8, "num_mel_bins": 16}
    }
    speech_to_text = {"input_feat_per_channel": 8, "input_channels": 1, "conv_channels": 16}
    ast = {"num_mel_bins": 16, "max_length": 32}
    qwen2_audio = {
        "audio_config": {**_AUDIO_TOWER, "model_type": "qwen2_audio_encoder"},
        "text_config": _QWEN2,
        "audio_token_index": 60,
    }
    voxtral = {
        "audio_config": {**_AUDIO_TOWER, "model_type": "voxtral_encoder", "intermediate_size": 128},
        "text_config": _LLAMA,
        "audio_token_id": 60,
    }
    encodec = {
        "num_filters": 4,
        "codebook_size": 16,
        "codebook_dim": 8,
        "upsampling_ratios": [2, 2],
        "hidden_size": 8,
        "num_lstm_layers": 1,
    }
    return [
        Case("wav2vec2-bert", "audio", {"feature_projection_input_dim": 16}, CTC, "features"),
        Case("parakeet_ctc", "audio", parakeet, CTC, "features"),
        Case("whisper", "audio", {"max_source_positions": 16}, SPEECH, "mel pair"),
        Case("moonshine", "audio", _MOONSHINE, SPEECH, "wave pair"),
        Case("speech_to_text", "audio", speech_to_text, SPEECH, "features pair"),
        Case("audio-spectrogram-transformer", "audio", ast, "AutoModelForAudioClassification", "spectrogram"),
        Case("qwen2_audio", "audio", qwen2_audio, SEQ2SEQ),
        Case("voxtral", "audio", voxtral, SEQ2SEQ),
        Case("encodec", "audio", encodec, BASE, "samples"),
    ]


# --------------------------------------------------------------------- models and what they are given

_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "image": {"pixel_values": (1, 3, 16, 16)},
    "large image": {"pixel_values": (1, 3, 32, 32)},
    "image pair": {"pixel_values": (1, 3, 16, 16)},
    "text and image": {"pixel_values": (1, 3, 16, 16)},
    "video": {"pixel_values": (1, 2, 3, 16, 16)},
    "wave": {"input_values": (1, 400)},
    "wave pair": {"input_values": (1, 2000)},
    "samples": {"input_values": (1, 1, 400)},
    "spectrogram": {"input_values": (1, 32, 16)},
    "features": {"input_features": (1, 40, 16)},
    "features pair": {"input_features": (1, 32, 8)},
    "mel pair": {"input_features": (1, 8, 32)},
}


def inputs(case: Case) -> dict[str, Any]:
    """What a forward pass of ``case`` is given."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.arange(3, 11).view(1, -1)
    given: dict[str, Any] = {
        name: torch.randn(shape, generator=generator) for name, shape in _SHAPES.get(case.inputs, {}).items()
    }
    if case.inputs in ("text", "pair", "text and image"):
        given["input_ids"] = tokens
    if "pair" in case.inputs:
        given["decoder_input_ids"] = tokens[:, :6]
    return given


def build(case: Case) -> Any:
    """A model of ``case``."""
    import transformers

    config = tiny_config(case.model_type, case.settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, case.auto).from_config(config).eval()


@torch.no_grad()
def add_noise(model: Any, seed: int) -> None:
    """Moves every weight at random: none stays zero or one, as initialisation made it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:  # the others are tables that models compute for themselves
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def tiny_config(model_type: str, settings: Mapping[str, Any]) -> Any:
    """The configuration of ``model_type``, as small as ``SIZES`` and ``settings`` make it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[model_type], settings)


def _tiny(config_class: Any, settings: Mapping[str, Any]) -> Any:
    names = {f.name for f in dataclasses.fields(config_class)}
    nested = {}
    for name, part in (config_class.sub_configs or {}).items():
        own = dict(settings.get(name, {}))
        model_type = own.pop("model_type", None)
        nested[name] = tiny_config(model_type, own) if model_type is not None else _tiny(part, own)
    return config_class(**{k: v for k, v in SIZES.items() if k in names} | dict(settings) | nested)


def table() -> str:
    """The table of docs/architectures.md."""
    rows = [
        f"| {c.name} | {c.kind} | yes | {'refused' if c.refused else 'yes' if c.stack else '-'} | yes |"
        for c in [*decoders(), *others()]
    ]
    return "\n".join(["| architecture | kind | linear | stack | in memory |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
