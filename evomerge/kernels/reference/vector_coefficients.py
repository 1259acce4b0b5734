"""Coefficients for each row or column, and a sum in float64 where the terms nearly cancel.

A fused sum in float32 is off by about 6e-8 of the sum of the sizes of its terms. Where that is much more than
the size of the result (inputs that are nearly opposite, a ratio near its pole), the terms are added in
float64, as base plus multiples of task vectors where there is a base. Everywhere else they are added in
float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels.chunks import Chunk

__all__ = ["ChunkVectors", "VectorCoefficients", "stable_coefficients"]

_Floats = NDArray[np.float64]

_MOST_CANCELLED = 16.0
"""Sum of the sizes of the terms, relative to the size of the result, that float32 is trusted with."""


@dataclass(frozen=True)
class VectorCoefficients:
    """c_LM: one coefficient per input for each vector (a row or a column of the tensor); (L, M), float64.

    ``wide_L`` (bool) marks the vectors that are added in float64; ``None`` where there are none. Of these,
    with ``of_task_vectors``, the base counts once, and the other coefficients multiply task vectors. The
    columns of a tensor of more than two dimensions run along its first one: one for each index of the others.
    """

    c_LM: Tensor
    per_column: bool
    wide_L: Tensor | None = None
    of_task_vectors: bool = False


def stable_coefficients(
    c_LM: _Floats, g_LMM: _Floats, *, has_base: bool, per_column: bool = False
) -> VectorCoefficients:
    """``c_LM`` with those vectors marked whose terms nearly cancel.

    ``g_LMM`` are the Gram matrices of the inputs; with ``has_base`` of the base and the task vectors, while
    ``c_LM`` multiplies the inputs and each of its rows sums to one.
    """
    count = c_LM.shape[1]
    square_LM = np.stack([g_LMM[:, m, m] for m in range(count)], axis=1)
    vector_LM = c_LM
    if has_base:
        for m in range(1, count):
            square_LM[:, m] += g_LMM[:, 0, 0] + 2 * g_LMM[:, 0, m]
        vector_LM = c_LM.copy()
        vector_LM[:, 0] = 1
    terms_L = (np.abs(c_LM) * np.sqrt(np.maximum(square_LM, 0))).sum(axis=1)
    result_L = np.zeros(len(c_LM))
    for i in range(count):
        for j in range(count):
            result_L += vector_LM[:, i] * g_LMM[:, i, j] * vector_LM[:, j]
    wide_L = terms_L > _MOST_CANCELLED * np.sqrt(np.maximum(result_L, 0))
    return VectorCoefficients(
        torch.from_numpy(np.ascontiguousarray(c_LM)),
        per_column,
        torch.from_numpy(wide_L) if wide_L.any() else None,
        of_task_vectors=has_base,
    )


@dataclass(frozen=True)
class ChunkVectors:
    """The rows or columns of one chunk with their coefficients."""

    chunk: Chunk
    vectors: VectorCoefficients

    def coefficients(self, m: int) -> Tensor:
        """Those of input ``m``, float32, to be multiplied with the chunk's (R, C)."""
        return self._spread(self.vectors.c_LM[:, m].to(torch.float32)).to(self.chunk.device)

    def put_wide(self, out_RC: Tensor) -> Tensor:
        """``out_RC`` with the marked vectors added in float64."""
        if self.vectors.wide_L is None:
            return out_RC
        wide_RC = self._spread(self.vectors.wide_L).to(self.chunk.device)
        if wide_RC.all():
            return self._wide_sum(self.chunk.x_MRC, slice(None))
        place = torch.nonzero(wide_RC.expand(self.chunk.shape).flatten()).flatten()
        if not len(place):
            return out_RC
        x_MK = [x_RC.reshape(-1)[place] for x_RC in self.chunk.x_MRC]
        out_RC.view(-1)[place] = self._wide_sum(x_MK, place)
        return out_RC

    def _wide_sum(self, x_M: Sequence[Tensor], place: Any) -> Tensor:
        """The sum at ``place`` (a slice for all elements, or places in the chunk), rounded to float32."""
        whole = isinstance(place, slice)
        base = x_M[0].float().double()
        total = torch.zeros_like(base)
        for m, x in enumerate(x_M):
            if m == 0 and self.vectors.of_task_vectors:
                continue
            c_RC = self._spread(self.vectors.c_LM[:, m]).to(self.chunk.device)
            c = c_RC if whole else c_RC.expand(self.chunk.shape).reshape(-1)[place]
            x_wide = x.float().double()
            # Multiply, then add, as everywhere: nothing may be fused in one place and not in another.
            total = torch.add(total, torch.mul(x_wide - base if self.vectors.of_task_vectors else x_wide, c))
        return (base + total if self.vectors.of_task_vectors else total).float()

    def _spread(self, of_L: Tensor) -> Tensor:
        """One value per vector, in the shape of the chunk or in one that is broadcast to it."""
        rows, columns = self.chunk.shape
        if len(of_L) == 1:
            return of_L.view(1, 1)
        if not self.vectors.per_column:
            return of_L[self.chunk.row : self.chunk.row + rows][:, None]
        if self.chunk.period == 1:
            return of_L[None, :]
        row_R = torch.arange(self.chunk.row, self.chunk.row + rows) % self.chunk.period
        return of_L.view(math.prod(of_L.shape) // columns, columns)[row_R]
