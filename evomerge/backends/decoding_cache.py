"""Keys and values of sequences that are being generated: buffers of the right size, filled from the left.

Tensors are (sequences, heads, tokens, head size), as everywhere in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

__all__ = ["DecodingCache", "Source"]


@dataclass(frozen=True, eq=False)
class Source:
    """Where the keys and values of one sequence are: ``columns`` of a row of a cache, in order."""

    cache: Cache
    row: int
    columns: Tensor | slice
    length: int


class DecodingCache(Cache):
    """A transformers cache over buffers; each sequence ends in the same column, so that padding is left."""

    def __init__(self, sources: Sequence[Source], more: int) -> None:
        """Copies ``sources``, with room for ``more`` tokens after them."""
        self.length = max(source.length for source in sources)
        first: Any = sources[0].cache
        self._buffers: list[_Buffer] = []
        layers: list[Any] = []
        for number, layer in enumerate(first.layers):
            if layer.is_initialized:
                self._buffers.append(_Buffer(sources, number, self.length, more))
                layers.append(self._buffers[-1])
            else:
                layers.append(DynamicLayer())  # it reads the keys of another
        super().__init__(layers=layers)

    def move(self, source: int, target: int) -> None:
        """Makes row ``target`` a copy of row ``source``."""
        for buffer in self._buffers:
            for tensor in buffer.tensors:
                tensor[target, :, : self.length] = tensor[source, :, : self.length]


class _Buffer(DynamicLayer):
    """A layer that writes into memory that is there, instead of copying all that was before."""

    def __init__(self, sources: Sequence[Source], number: int, length: int, more: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        layers = [source.cache.layers[number] for source in sources]
        first: Any = layers[0]
        self.dtype, self.device = first.dtype, first.device
        self.is_initialized = True
        self.length = length
        self.tensors = tuple(
            _filled([getattr(layer, name) for layer in layers], sources, length, more)
            for name in ("keys", "values")
        )
        self.keys, self.values = self.tensors

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of all tokens, with those of the new ones."""
        rows, end = len(key_states), self.length + key_states.shape[-2]
        keys, values = self.tensors
        keys[:rows, :, self.length : end] = key_states
        values[:rows, :, self.length : end] = value_states
        self.length = end
        return keys[:rows, :, :end], values[:rows, :, :end]

    def get_seq_length(self) -> int:
        """Columns that are filled."""
        return self.length


def _filled(tensors: Sequence[Tensor], sources: Sequence[Source], length: int, more: int) -> Tensor:
    """A buffer of ``length`` columns and ``more``, with what ``sources`` say of ``tensors``."""
    _, heads, _, size = tensors[0].shape
    # Zeros: what attention hides is multiplied by 0, and 0 * NaN is NaN.
    buffer = tensors[0].new_zeros((len(sources), heads, length + more, size))
    for row, (tensor, source) in enumerate(zip(tensors, sources, strict=True)):
        buffer[row, :, length - source.length : length] = tensor[source.row][:, source.columns]
    return buffer
