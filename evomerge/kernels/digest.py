"""The digest of an output tensor, which is on the same device."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.kernels.dispatch import add_to_digest

__all__ = ["Digest"]


class Digest:
    """128 bits of one output tensor (see ``reference.digest``), and whether all its elements are finite.

    It lies on the tensor's device, where kernels add to it, and waits for nothing: ``state`` is (3,), int64,
    the two sums, and something other than 0 where an element is NaN or infinite.
    """

    def __init__(self, state: Tensor) -> None:
        self.state = state

    @classmethod
    def on(cls, device: torch.device) -> Digest:
        """The digest of no bytes."""
        return cls(torch.zeros(3, dtype=torch.int64, device=device))

    def add(self, rows_RC: Tensor, first: int) -> None:
        """Adds rows in their output dtype, whose first element is number ``first`` of the tensor.

        Chunks may come in any order. ``first`` is a multiple of 8, so that words do not lie in two of them.
        """
        add_to_digest(self.state, rows_RC, first)
