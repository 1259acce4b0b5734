"""Random numbers that are a function of where they are used: no generator, no state.

The mask of an element depends on (seed, tensor, model, row, column) alone, so chunking, threads, workers and
the device cannot change it. The mixing is the 32-bit finalizer of MurmurHash3 (Appleby 2011), in wrapping
int32 arithmetic, which CPU and GPU compute alike.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

__all__ = ["keep", "key_of", "random_bits"]

_C1 = -2048144789  # 0x85EBCA6B as int32
_C2 = -1028477387  # 0xC2B2AE35 as int32
_GOLDEN = -1640531527  # 0x9E3779B9 as int32


@functools.lru_cache(maxsize=1 << 16, typed=True)
def key_of(*parts: int | str) -> int:
    """64 bits from ``parts``: the same on every machine and in every process."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def random_bits(key: int, row: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Uniform int32 values of shape (rows, columns) for the rows from ``row`` on."""
    low, high = _as_int32(key), _as_int32(key >> 32)
    row_R = torch.arange(row, row + rows, dtype=torch.int64, device=device)
    # Two independent streams per row: one goes in before the mixing, one in its middle.
    first_R = _mix((row_R & 0xFFFFFFFF).to(torch.int32) * _GOLDEN + low)
    second_R = _mix(first_R ^ (row_R >> 32).to(torch.int32) ^ high)
    column_C = torch.arange(columns, dtype=torch.int32, device=device) * _GOLDEN
    bits_RC = column_C[None, :] + first_R[:, None]
    bits_RC ^= _shift_right(bits_RC, 16)
    bits_RC *= _C1
    bits_RC ^= second_R[:, None]
    bits_RC ^= _shift_right(bits_RC, 13)
    bits_RC *= _C2
    bits_RC ^= _shift_right(bits_RC, 16)
    return bits_RC


def keep(bits_RC: Tensor, probability: float) -> Tensor:
    """True with ``probability`` in (0, 1), for each of the uniform int32 values."""
    return bits_RC < threshold(probability)


def threshold(probability: float) -> int:
    """One of ``thresholds``."""
    return min(max(round(probability * 2**32) - 2**31, -(2**31)), 2**31 - 1)


def thresholds(probability: Tensor) -> Tensor:
    """The int32 limits that uniform int32 values fall below with the given probabilities (float64)."""
    limits = torch.round(probability * 2**32) - 2**31
    return limits.clamp(-(2**31), 2**31 - 1).to(torch.int32)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 16)) * _C1
    x = (x ^ _shift_right(x, 13)) * _C2
    return x ^ _shift_right(x, 16)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's shift of int32 is arithmetic."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _as_int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value
