"""How much of our own batching an architecture allows, from its classes and configuration alone.

The weights have no say: every worker decides alike. ``tests/engine/test_pooled_architectures.py`` compares
what is decided here with each model's own forward pass, for all causal models that transformers can build.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from torch import nn

__all__ = ["Batching", "batching_of", "longest_shared"]


class Batching(Enum):
    """From most to least."""

    TREES = "several sequences in a row, shared beginnings once, generation over our own cache"
    ROWS = "one sequence in a row, right padding without a mask: attention is causal, or there is none"
    THEIRS = "as lm-eval does it"


_NO_FLAG = {"big_bird", "cpmant", "megatron-bert", "prophetnet", "reformer", "rembert", "roformer", "xlnet"}
"""Attention sees what follows, or hashes that depend on the length of the row, and its modules have no
``is_causal`` that says so (transformers 5.23)."""

_PLAIN_ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers in which a token depends on the tokens it sees, and on nothing else."""

_BY_LENGTH = {"dynamic", "longrope"}
"""Rotary embeddings that depend on the longest sequence of the batch."""


def batching_of(model: nn.Module) -> Batching:
    """What ``model`` allows.

    Trees need a forward pass that takes a mask for each pair of tokens and positions for each token: models
    that can use any of transformers' attention functions do (``_supports_attention_backend``).
    """
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    causal = [bool(m.is_causal) for m in model.modules() if hasattr(m, "is_causal")]
    if config.is_encoder_decoder or not all(causal) or text.model_type in _NO_FLAG:
        return Batching.THEIRS
    plain = set(getattr(text, "layer_types", None) or ()) <= _PLAIN_ATTENTION
    takes_masks = bool(causal) and bool(getattr(model, "_supports_attention_backend", False))
    return Batching.TREES if takes_masks and plain and not _rope_by_length(text) else Batching.ROWS


def longest_shared(model: nn.Module, context: int) -> int:
    """Tokens of the longest sequence that may be in a tree: beyond a sliding window a mask would differ."""
    config: Any = model.config
    window = getattr(config.get_text_config(decoder=True), "sliding_window", None)
    return min(context, int(window)) if window else context


def _rope_by_length(config: Any) -> bool:
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_layer = [each for each in given.values() if isinstance(each, dict)] or [given]
    return any(each.get("rope_type", each.get("type")) in _BY_LENGTH for each in by_layer)
