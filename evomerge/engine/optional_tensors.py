"""Tensors that not all checkpoints of a model store: buffers, masks, tied embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.configuration import is_tied

__all__ = ["is_embedding", "is_left_out"]

_RECOMPUTED = ("rotary_emb.inv_freq", "masked_bias")
"""Endings of buffers that old checkpoints store and every model computes for itself."""
_NOT_ALWAYS_STORED = ("position_ids",)
"""Endings of buffers that some checkpoints of a model store and others do not."""
_MASK_DIMENSIONS = 4
_TIED = re.compile(r"(embed|shared|wte|word|head|decoder|predictions|proj_out|output)\w*\.(weight|bias)$")
"""Embeddings of input and output, of which one is stored where they are tied."""


def is_left_out(name: str, checkpoints: Mapping[str, Checkpoint], *, in_layers: bool) -> bool:
    """Whether the merge of ``checkpoints`` leaves out the tensor ``name``, which some of them store.

    This applies to buffers that models recompute, and to embeddings that some model does not store as it ties
    them. ``in_layers`` says whether the tensor is part of a layer.
    """
    if name.endswith(_RECOMPUTED):
        return True
    holders = [c for c in checkpoints.values() if name in c.tensors]
    if len(holders) == len(checkpoints):
        return False
    if name.endswith(_NOT_ALWAYS_STORED) or any(_is_mask(name, c) for c in holders):
        return True
    # A model that does not tie them uses what it stores: then the others lack it.
    means_it = any(is_tied(c.config) is False for c in holders)
    return not in_layers and not means_it and _TIED.search(name) is not None


def is_embedding(name: str) -> bool:
    """Whether the name is one of those that embeddings of the input or the output have."""
    return _TIED.search(name) is not None


def _is_mask(name: str, checkpoint: Checkpoint) -> bool:
    """A causal mask, which old checkpoints store under the name of a bias."""
    is_named_so = name.endswith(("attn.bias", "attention.bias"))
    return is_named_so and len(checkpoint.tensors[name].shape) == _MASK_DIMENSIONS
