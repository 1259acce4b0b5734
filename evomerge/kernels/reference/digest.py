"""128 bits of a tensor's bytes, as two sums that CPU and GPU take alike, in any order of its chunks.

The bytes are words of 64 bits, little-endian, the last one filled up with zeros. Word p with the halves
(a, b) has a key of its own with the halves (k, l), and adds modulo 2^64

    to the first sum    (a ^ k) * (b ^ l)      (a product of 32 by 32 bits, as in UMAC and xxHash3),
    to the second sum   a * k + b * l.

Keys are table[p mod 512] * odd + offset; the table, and odd and offset of each 512 words, are mixed well
(MurmurHash3's finalizer; SplitMix64), so that a change of one word always shows in the second sum, and
swaps, shifts and zeros elsewhere show like a change of random bits. Multiplying 32 by 32 bits is what
vector units of CPUs can do; keys cost them one such product. It detects accidents, not attacks.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import Target

__all__ = ["KEY_BLOCK", "KEY_BLOCK_BITS", "add", "align", "key_table", "round_rows"]

KEY_BLOCK_BITS = 9
KEY_BLOCK = 1 << KEY_BLOCK_BITS
"""Words that share odd and offset."""
_LOW = 0xFFFFFFFF


def add(state: Tensor, rows_RC: Tensor, first: int) -> None:
    """Adds rows to the sums in ``state``, (3,), int64; see ``Digest.add``."""
    if rows_RC.numel():
        bytes_ = align(rows_RC).view(-1).view(torch.uint8)
        state[:2] += _sums(bytes_, first * rows_RC.dtype.itemsize // 8)


def align(rows_RC: Tensor) -> Tensor:
    """The rows in contiguous memory that begins with a word of 64 bits; a copy where they do not lie so."""
    flat = rows_RC.contiguous()
    if flat.data_ptr() % 8 or flat.storage_offset() * flat.dtype.itemsize % 8:
        return flat.clone()
    return flat


def round_rows(rows_RC: Tensor, target: Target) -> None:
    """Rounds float32 rows to where they go, and notes in its state whether all are finite afterwards."""
    place_RC = target.place_RC
    place_RC.copy_(rows_RC)
    known_RC = place_RC.float() if place_RC.dtype.itemsize == 1 else place_RC  # torch cannot tell in 8 bits
    target.state[2] += torch.logical_not(torch.isfinite(known_RC).all())


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
    odd = _shift_right(_mix(2 * block + 1), 32) | 1
    offset = _mix(2 * block + 2)
    table = _table_on(words.device)
    of = (place >> KEY_BLOCK_BITS) - low
    keys = table[place & (KEY_BLOCK - 1)] * odd[of] + offset[of]
    crossed = words ^ keys
    products = (crossed & _LOW) * _shift_right(crossed, 32)
    linear = (words & _LOW) * (keys & _LOW) + _shift_right(words, 32) * _shift_right(keys, 32)
    return torch.stack([products.sum(), linear.sum()])


def _mix(z: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele et al. 2014)."""
    z = (z ^ _shift_right(z, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ _shift_right(z, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's shift of int64 is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
