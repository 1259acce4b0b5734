"""128 bits of a tensor's bytes, as two sums that CPU and GPU take alike, in any order of its chunks.

The bytes are words of 64 bits, little-endian, the last one filled up with zeros. Word p with the halves
(a, b) has a key of its own with the halves (k, l), and adds modulo 2^64

    to the first sum    (a ^ k) * (b ^ l)      (a product of 32 by 32 bits, as in UMAC and xxHash3),
    to the second sum   a * k + b * l.

Keys are table[p mod 512] * odd + offset; the table, and odd and offset of each 512 words, are mixed well
(MurmurHash3's finalizer; SplitMix64), so that a change of one word always shows in the second sum, and
swaps, shifts and zeros elsewhere show like a change of random bits. Multiplying 32 by 32 bits is what
vector units of CPUs can do; keys cost them one such product. It finds accidents, it stops no attacker.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.cpu.calls import functions, usable

__all__ = ["KEY_BLOCK", "KEY_BLOCK_BITS", "Digest", "key_table"]

KEY_BLOCK_BITS = 9
KEY_BLOCK = 1 << KEY_BLOCK_BITS
"""Words that share odd and offset."""
_LOW = 0xFFFFFFFF


class Digest:
    """Digest of one output tensor, and whether all its elements are finite.

    It lies on the tensor's device, where kernels add to it, and waits for nothing: ``state`` is (3,), int64,
    the two sums, and something other than 0 where an element is NaN or infinite.
    """

    def __init__(self, state: Tensor) -> None:
        self.state = state

    @classmethod
    def on(cls, device: torch.device) -> Digest:
        """That of no bytes."""
        return cls(torch.zeros(3, dtype=torch.int64, device=device))

    def add(self, rows_RC: Tensor, first: int) -> None:
        """Adds rows in their output dtype, whose first element is number ``first`` of the tensor.

        Chunks may come in any order. ``first`` is a multiple of 8, so that words do not lie in two of them.
        """
        flat = rows_RC.contiguous()
        if not flat.numel():
            return
        address, size = flat.data_ptr(), flat.dtype.itemsize
        if address % 8 or flat.storage_offset() * size % 8:
            flat = flat.clone()
            address = flat.data_ptr()
        word = first * size // 8
        if usable(flat):
            functions().digest(address, flat.nbytes, word, key_table(), self.state.numpy())
        else:
            self.state[:2] += _sums(flat.view(-1).view(torch.uint8), word)

    def add_finite(self, rows_RC: Tensor) -> None:
        """Looks whether all of the rows are finite, on their device."""
        known_RC = rows_RC.float() if rows_RC.dtype.itemsize == 1 else rows_RC  # torch has none for 8 bits
        self.state[2] += torch.logical_not(torch.isfinite(known_RC).all())


@functools.cache
def key_table() -> Any:
    """32 bits for each word of a block; a NumPy array of uint64."""
    x = np.arange(1, KEY_BLOCK + 1, dtype=np.uint64) * 0x9E3779B9 & _LOW
    x = (x ^ x >> 16) * 0x85EBCA6B & _LOW
    x = (x ^ x >> 13) * 0xC2B2AE35 & _LOW
    return x ^ x >> 16


@functools.cache
def _table_on(device: torch.device) -> Tensor:
    return torch.from_numpy(key_table().view(np.int64)).to(device)


def _sums(bytes_: Tensor, first: int) -> Tensor:
    """Both sums of bytes whose first is in word ``first``; (2,), int64. Wraps as uint64 would."""
    missing = -bytes_.numel() % 8
    if missing:
        bytes_ = torch.nn.functional.pad(bytes_, (0, missing))
    words = bytes_.view(torch.int64)
    place = torch.arange(first, first + words.numel(), device=words.device)
    low, high = first >> KEY_BLOCK_BITS, (first + words.numel() - 1 >> KEY_BLOCK_BITS) + 1
    block = torch.arange(low, high, device=words.device)
    odd = _shifted(_mix(2 * block + 1), 32) | 1
    offset = _mix(2 * block + 2)
    table = _table_on(words.device)
    of = (place >> KEY_BLOCK_BITS) - low
    keys = table[place & (KEY_BLOCK - 1)] * odd[of] + offset[of]
    crossed = words ^ keys
    products = (crossed & _LOW) * _shifted(crossed, 32)
    linear = (words & _LOW) * (keys & _LOW) + _shifted(words, 32) * _shifted(keys, 32)
    return torch.stack([products.sum(), linear.sum()])


def _mix(z: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele et al. 2014)."""
    z = (z ^ _shifted(z, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ _shifted(z, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's shift of int64 is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
