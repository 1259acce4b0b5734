"""How much goes into one forward pass: as an experiment says, or as the device's memory suggests."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from evomerge.backends.batches import PassLimit

__all__ = ["limit_of"]

_WIDEST = 512
"""Tokens of a row that several trees share, in models of at least so large a hidden size. What attention adds
to the matrix products grows with the width over the hidden size: here it is a sixth."""

_LOGITS_BYTES = {"cuda": 1 << 30}
_LOGITS_BYTES_ELSEWHERE = 1 << 28
"""Memory for the logits of one pass, if one sequence does not need more."""

_MOST_ROWS, _MOST_TOKENS = {"cuda": 256}, {"cuda": 1 << 16}
_MOST_ROWS_ELSEWHERE, _MOST_TOKENS_ELSEWHERE = 128, 1 << 12
"""Beyond this a pass gets no faster (measured on one core with 135M parameters: docs/benchmarks.md)."""


def limit_of(model: Any, rows: int | None) -> PassLimit:
    """The limit of a pass of so many ``rows``, or one for the device of ``model``.

    The latter is a function of the memory that the device has in all, whatever is free: every worker on
    machines of one kind makes the same batches, and so the same last bits.
    """
    kind = model.device.type
    bytes_of_logits = _LOGITS_BYTES.get(kind, _LOGITS_BYTES_ELSEWHERE)
    outputs = max(1, bytes_of_logits // (model.get_input_embeddings().num_embeddings * model.dtype.itemsize))
    config = model.config.get_text_config(decoder=True)
    width = _power_of_two(int(getattr(config, "hidden_size", _WIDEST)), 32, _WIDEST)
    if rows is not None:
        return PassLimit(width, rows, sys.maxsize, outputs, sys.maxsize)
    weights = sum(weight.nbytes for weight in model.parameters())
    room = max(_usable(model.device) - weights, 0)
    cached, used = _bytes_per_token(config, model.dtype.itemsize)
    tokens = _power_of_two(room // 2 // used, _WIDEST, _MOST_TOKENS.get(kind, _MOST_TOKENS_ELSEWHERE))
    kept = _power_of_two(room // 2 // cached, _WIDEST, 1 << 24)
    return PassLimit(width, _MOST_ROWS.get(kind, _MOST_ROWS_ELSEWHERE), tokens, outputs, kept)


def _usable(device: torch.device) -> int:
    """Bytes of ``device`` for one model and its passes: other workers share a computer's memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * 0.8)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _bytes_per_token(config: Any, itemsize: int) -> tuple[int, int]:
    """Bytes of the keys and values of a token, and of all that a pass holds of it; rather too many."""
    hidden = int(getattr(config, "hidden_size", 1024))
    inner = getattr(config, "intermediate_size", None)
    layers = int(getattr(config, "num_hidden_layers", 1))
    heads = int(getattr(config, "num_attention_heads", 1))
    size = int(getattr(config, "head_dim", None) or max(1, hidden // heads))
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    cached = 2 * layers * key_heads * size * itemsize
    widest = inner if isinstance(inner, int) else 4 * hidden
    # A few copies of the widest activation, some in float32, and the row of the mask.
    return cached, cached + 4 * (8 * hidden + 4 * widest + 2 * heads * size) + 4 * _WIDEST


def _power_of_two(number: int, least: int, most: int) -> int:
    """The largest power of two up to ``number``, within the bounds: equal on machines that nearly are."""
    return max(least, min(most, 1 << max(number.bit_length() - 1, 0)))
