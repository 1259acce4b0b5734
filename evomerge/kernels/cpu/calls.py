"""The kernels again for CPUs, compiled by numba: one pass over memory instead of one per operation.

Same arithmetic, same order, same rounding as the torch versions, which GPUs use: a test compares the bits.
Only sums in float64 (Gram matrices, L1 norms, mean squares) are added in another order, their own, which
depends on nothing but the shape. Arrays are passed by address, so that one compiled function serves any
number of models. Where numba is missing, torch does the work.

Elements come as bfloat16 (``uint16`` here) or float32; tensors in float16 are widened first.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import ROW_BLOCK, Chunk

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "KINDS",
    "Inputs",
    "blocks",
    "compiled",
    "floats",
    "functions",
    "single",
    "usable",
    "wanted",
]

KINDS = {torch.bfloat16: 0, torch.float32: 1}
"""How compiled functions call the dtypes they know."""


@functools.cache
def compiled() -> ModuleType | None:
    """The functions compiled by numba, or ``None`` where it is missing or ``EVOMERGE_NATIVE`` is not 1."""
    if wanted() != "1":
        return None
    try:
        from evomerge.kernels.cpu import compiled as functions_
    except (ImportError, RuntimeError):  # numba has no place at all to keep what it compiled
        return None
    return functions_


def wanted() -> str:
    """What ``EVOMERGE_NATIVE`` says: 1 (the default), 0 for torch alone, triton."""
    return os.environ.get("EVOMERGE_NATIVE", "1")


def functions() -> ModuleType:
    """The compiled functions, where they are usable."""
    module = compiled()
    if module is None:
        raise RuntimeError("numba is missing")
    return module


def usable(chunk: Chunk | Tensor) -> bool:
    """Whether the compiled functions can work on this chunk (or tensor)."""
    return chunk.device.type == "cpu" and compiled() is not None


class Inputs:
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
    """Numbers as torch's scalars of float32 operations see them; infinite where float32 ends."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float64).astype(np.float32)


def single(value: float) -> Any:
    """One number as ``floats`` makes it."""
    return floats([value])[0]


def blocks(rows: int) -> int:
    """Number of partial sums of a chunk."""
    return -(-rows // ROW_BLOCK)
