"""Exact ranks on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.reference.ranks import Finder

__all__ = ["Collector"]


@dataclass
class Collector(Finder):
    """A ``Finder`` for which compiled functions look through the chunks."""

    _room: tuple[Tensor, Tensor] | None = None

    def collect(self, elements: int, run: Callable[..., None]) -> None:
        """Has a compiled function look through a chunk: ``run(bins, bits, index, filled)``, as NumPy arrays.

        It finds ``elements`` at most, and may write one more.
        """
        bins = self.bins
        if self._room is None or self._room[0].shape[1] <= elements:  # used again for each chunk
            self._room = (
                torch.empty(len(bins), elements + 1, dtype=torch.int32),
                torch.empty(len(bins), elements + 1, dtype=torch.int64),
            )
        bits, index = self._room
        filled = np.zeros(len(bins), dtype=np.int64)
        run(np.array(bins, dtype=np.int64), bits.numpy(), index.numpy(), filled)
        for k, count in enumerate(filled.tolist()):
            self.put(bins[k], bits[k, :count].clone(), index[k, :count].clone())
