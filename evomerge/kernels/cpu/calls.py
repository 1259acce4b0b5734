"""Arguments of compiled functions: inputs by address, scalars as float32.

With addresses one compiled function serves any number of models. Elements come as bfloat16 (``uint16`` there)
or float32; tensors in float16 are widened first.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

from evomerge.kernels.chunks import ROW_BLOCK, Chunk

__all__ = [
    "KINDS",
    "InputAddresses",
    "available",
    "blocks",
    "floats",
    "functions",
    "single",
]

KINDS = {torch.bfloat16: 0, torch.float32: 1}
"""How compiled functions call the dtypes they know."""


@functools.cache
def available() -> bool:
    """Whether numba is installed and has a folder to cache compiled functions in."""
    try:
        functions()
    except (ImportError, RuntimeError):
        return False
    return True


@functools.cache
def functions() -> ModuleType:
    """The compiled functions; numba is imported on first use."""
    from evomerge.kernels.cpu import compiled

    return compiled


class InputAddresses:
    """A chunk's inputs by address, all of one kind, alive as long as this object."""

    def __init__(self, chunk: Chunk) -> None:
        kinds = {x_RC.dtype for x_RC in chunk.x_MRC}
        same = len(kinds) == 1 and next(iter(kinds)) in KINDS
        self._alive = [x_RC.contiguous() if same else x_RC.float().contiguous() for x_RC in chunk.x_MRC]
        self.addresses = np.array([x_RC.data_ptr() for x_RC in self._alive], dtype=np.int64)
        self.kind = KINDS[self._alive[0].dtype]
        self.rows, self.columns = chunk.shape
        self.elements = self.rows * self.columns
        self.row = chunk.row


def floats(values: Sequence[float]) -> Any:
    """Scalars rounded as in torch's float32 operations; infinite beyond the range of float32."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float64).astype(np.float32)


def single(value: float) -> Any:
    """One scalar as in ``floats``."""
    return floats([value])[0]


def blocks(rows: int) -> int:
    """Number of partial sums of a chunk."""
    return -(-rows // ROW_BLOCK)
