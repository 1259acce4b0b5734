"""Linear combinations on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks, Target
from evomerge.kernels.cpu.calls import InputAddresses, blocks, floats, functions
from evomerge.kernels.cpu.output import OutputRows, write_float32
from evomerge.kernels.reference import linear_combinations as reference
from evomerge.kernels.reference.vector_coefficients import VectorCoefficients

__all__ = ["gram", "task_gram", "vector_weighted_sum", "weighted_sum", "write_weighted"]


def gram(chunks: Chunks) -> Tensor:
    """See the reference."""
    return _gram(chunks, of_task_vectors=False)


def task_gram(chunks: Chunks) -> Tensor:
    """See the reference."""
    return _gram(chunks, of_task_vectors=True)


def _gram(chunks: Chunks, *, of_task_vectors: bool) -> Tensor:
    pairs: dict[tuple[int, int], list[float]] = {}
    for chunk in chunks():
        x = InputAddresses(chunk)
        count = len(chunk.x_MRC)
        sums = np.zeros((count * (count + 1) // 2, blocks(x.rows)))
        differences = of_task_vectors and chunk.has_base
        functions().gram(x.addresses, x.kind, x.rows, x.columns, differences, ROW_BLOCK, sums)
        order = [(i, j) for i in range(count) for j in range(i + 1)]
        for pair, values in zip(order, sums.tolist(), strict=True):
            pairs.setdefault(pair, []).extend(values)
    return reference.gram_matrix(pairs)


def weighted_sum(chunk: Chunk, c_M: Tensor, _: None, target: Target) -> None:
    """See the reference."""
    write_weighted(chunk, c_M.tolist(), target)


def write_weighted(chunk: Chunk, coefficients: Sequence[float], target: Target) -> None:
    """Writes the weighted sum of a chunk's inputs to ``target``."""
    x, out = InputAddresses(chunk), OutputRows(chunk, target)
    c, n = floats(coefficients), x.elements
    out.finish(
        functions().weighted_sum(x.addresses, x.kind, n, c, out.address, out.kind, *out.digest), digested=True
    )


def vector_weighted_sum(chunk: Chunk, vectors: VectorCoefficients, reduction: None, target: Target) -> None:
    """See the reference, which makes the rows where there is more than one vector."""
    if vectors.c_LM.shape[0] == 1 and vectors.wide_L is None:
        weighted_sum(chunk, vectors.c_LM[0], reduction, target)
        return
    write_float32(reference.vector_weighted_sum(chunk, vectors, reduction), chunk, target)
