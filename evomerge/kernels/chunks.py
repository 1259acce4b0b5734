"""Chunks of weights: what every operation works on.

Shape letters in this package: M = inputs (base first where there is one), D = task vectors, R = rows,
C = columns, L = vectors (rows or columns with coefficients of their own), B = bins, K = blocks of rows.

Every operation gives the same bits for any chunk size and any number of threads:

- elementwise work uses operations that are exactly rounded one by one (multiply, add, divide, compare),
  never a fused or an approximated one whose vector and scalar versions differ;
- sums are taken per block of ``ROW_BLOCK`` rows in float64 and the blocks are added exactly (``math.fsum``)
  or in the order of the rows; counts are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "ROW_BLOCK",
    "Chunk",
    "Chunks",
    "Target",
    "block_sums",
    "magnitude_bits",
    "task_vectors",
]

ROW_BLOCK = 16
"""Rows in one partial sum. Fixed, so that the size of a chunk cannot change the result."""


@dataclass(frozen=True)
class Chunk:
    """Rows ``row`` to ``row + R`` of one tensor from each input, in storage dtype; ``x_MRC[m]`` is (R, C).

    ``row`` is a multiple of ``ROW_BLOCK``. A vector is one row (``is_vector``); dimensions of a tensor before
    its last are flattened into rows. With ``has_base`` the first input is the base. ``period`` is the
    number of rows that share the index of the tensor's first dimension: 1 for a matrix.
    """

    x_MRC: tuple[Tensor, ...]
    row: int
    has_base: bool = False
    is_vector: bool = False
    period: int = 1

    @property
    def device(self) -> torch.device:
        """The device of the chunk."""
        return self.x_MRC[0].device

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        rows, columns = self.x_MRC[0].shape
        return rows, columns

    @property
    def first(self) -> int:
        """The number of its first element in the tensor."""
        return self.row * self.x_MRC[0].shape[1]


Chunks = Callable[[], Iterator[Chunk]]
"""Starts one pass over a tensor: all its chunks, in the order of the rows."""


@dataclass(frozen=True)
class Target:
    """Where rows are written: to ``place_RC``, (R, C) of any dtype, after rounding to ``dtype``.

    ``state`` is that of the ``Digest`` of the rounded rows. On a CPU the rows are those of one chunk and
    ``place_RC`` has ``dtype``; on a GPU they are all rows of a tensor.
    """

    place_RC: Tensor
    dtype: torch.dtype
    state: Tensor


def task_vectors(chunk: Chunk) -> Iterator[Tensor]:
    """x_d - base in float32, one after the other: only one is in memory at a time; each (R, C)."""
    base_RC = chunk.x_MRC[0].float()
    for x_RC in chunk.x_MRC[1:]:
        yield torch.sub(x_RC.float(), base_RC)


def magnitude_bits(x_RC: Tensor) -> Tensor:
    """The magnitude of float32 values as int32, which has the same order."""
    return x_RC.view(torch.int32) & 0x7FFFFFFF


def block_sums(x_RC: Tensor) -> Tensor:
    """Sums of the blocks of ``ROW_BLOCK`` rows, in float64; (K,).

    Each block is summed along its contiguous elements on its own, so its bits depend on nothing else.
    """
    rows, columns = x_RC.shape
    whole = rows - rows % ROW_BLOCK
    sums = []
    if whole:
        sums.append(x_RC[:whole].reshape(-1, ROW_BLOCK * columns).sum(dim=1, dtype=torch.float64))
    if whole < rows:
        sums.append(x_RC[whole:].reshape(1, -1).sum(dim=1, dtype=torch.float64))
    return torch.cat(sums) if len(sums) > 1 else sums[0]
