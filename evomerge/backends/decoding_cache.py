"""Keys and values of sequences that are being generated: buffers of the right size, filled from the left.

Shape letters: R = sequences, K = heads of keys, T = tokens, D = head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["DecodingCache", "Source"]


@dataclass(frozen=True, eq=False)
class Source:
    """Where the keys and values of one sequence are: columns of a row of a cache, in order."""

    cache: DynamicCache | DecodingCache
    row: int
    columns: Tensor | slice
    length: int


class _Buffer(DynamicLayer):
    """A layer that writes into memory that is there, instead of copying all that was before."""

    def __init__(self, keys_RKTD: Tensor, values_RKTD: Tensor, length: int) -> None:
        super().__init__()
        self.dtype, self.device = keys_RKTD.dtype, keys_RKTD.device
        self.is_initialized = True
        self.keys, self.values = keys_RKTD, values_RKTD
        self.length = length

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows, end = len(key_states), self.length + key_states.shape[-2]
        self.keys[:rows, :, self.length : end] = key_states
        self.values[:rows, :, self.length : end] = value_states
        self.length = end
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def get_seq_length(self) -> int:
        return self.length


class DecodingCache(Cache):
    """A transformers cache over buffers; each sequence ends in the same column, so that padding is left."""

    def __init__(self, sources: Sequence[Source], more: int) -> None:
        """Copies ``sources``, with room for ``more`` tokens after them."""
        self.length = max(source.length for source in sources)
        first = sources[0].cache
        super().__init__(
            layers=[
                _buffer(sources, number, self.length, more) if layer.is_initialized else DynamicLayer()
                for number, layer in enumerate(first.layers)
            ]
        )

    def move(self, source: int, target: int) -> None:
        """Makes row ``target`` a copy of row ``source``."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[target, :, : layer.length] = layer.keys[source, :, : layer.length]
                layer.values[target, :, : layer.length] = layer.values[source, :, : layer.length]


def _buffer(sources: Sequence[Source], number: int, length: int, more: int) -> _Buffer:
    first = sources[0].cache.layers[number]
    made = []
    for name in ("keys", "values"):
        _, heads, _, size = getattr(first, name).shape
        # Zeros: what attention hides is multiplied by 0, and 0 * NaN is NaN.
        buffer = torch.zeros(
            (len(sources), heads, length + more, size), dtype=first.dtype, device=first.device
        )
        for row, source in enumerate(sources):
            taken = getattr(source.cache.layers[number], name)[source.row][:, source.columns]
            buffer[row, :, length - source.length : length] = taken
        made.append(buffer)
    return _Buffer(*made, length)
