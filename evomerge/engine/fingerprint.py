"""Fingerprints of weights: 128 bits of xxHash3 over names, dtypes, shapes and bytes.

They tell sets of weights apart and find accidents; they do not stop someone who wants a collision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xxhash
from torch import Tensor

from evomerge.engine.plan import TensorPlan

__all__ = ["TensorDigest", "combined_fingerprint"]


class TensorDigest:
    """Digest of one output tensor, fed with its rows in order."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def update(self, rows_RC: Tensor) -> None:
        """Adds rows in their output dtype."""
        flat = rows_RC.detach().contiguous().view(-1)
        if flat.numel():
            self._state.update(flat.cpu().view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """128 bits, hexadecimal."""
        return self._state.hexdigest()


def combined_fingerprint(tensors: Sequence[TensorPlan], digests: Mapping[str, str]) -> str:
    """One digest of a whole set of weights: names, dtypes, shapes and bytes; the order does not matter."""
    state = xxhash.xxh3_128()
    for tensor in sorted(tensors, key=lambda t: t.name):
        state.update(f"{tensor.name} {tensor.dtype} {list(tensor.shape)} {digests[tensor.name]}\n".encode())
    return state.hexdigest()
