"""Linear combinations of the inputs: Gram matrices to find coefficients, weighted sums to apply them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks, block_sums
from evomerge.kernels.reference.vector_coefficients import ChunkVectors, VectorCoefficients

__all__ = [
    "VectorGrams",
    "column_grams",
    "gram",
    "gram_matrix",
    "row_grams",
    "task_gram",
    "vector_weighted_sum",
    "weighted_sum",
]


def gram(chunks: Chunks) -> Tensor:
    """Gram matrix of the inputs taken as vectors; (M, M), float64."""
    return gram_matrix(_pair_sums(chunks, of_task_vectors=False))


def task_gram(chunks: Chunks) -> Tensor:
    """That of base and task vectors, subtracted before they are multiplied; (M, M), float64."""
    return gram_matrix(_pair_sums(chunks, of_task_vectors=True))


def _pair_sums(chunks: Chunks, *, of_task_vectors: bool) -> dict[tuple[int, int], list[float]]:
    """For each pair i >= j of inputs, the sum of products in each block of rows."""
    pairs: dict[tuple[int, int], list[float]] = {}
    for chunk in chunks():
        wide = list(_wide(chunk, of_task_vectors=of_task_vectors))
        for i, a_RC in enumerate(wide):
            for j, b_RC in enumerate(wide[: i + 1]):
                # Products and sums rather than a matrix product: BLAS picks its order of summation itself.
                pairs.setdefault((i, j), []).extend(block_sums(a_RC * b_RC).tolist())
    return pairs


def gram_matrix(pairs: Mapping[tuple[int, int], Sequence[float]]) -> Tensor:
    """Partial sums of the pairs i >= j, added exactly; (M, M), float64."""
    count = 1 + max(i for i, _ in pairs)
    gram_MM = torch.zeros(count, count, dtype=torch.float64)
    for (i, j), sums in pairs.items():
        gram_MM[i, j] = gram_MM[j, i] = math.fsum(sums)
    return gram_MM


@dataclass(frozen=True)
class VectorGrams:
    """One Gram matrix per row (or per column) of a tensor; ``grams_LMM`` is (L, M, M), float64.

    ``per_column`` says along which dimension the coefficients lie when they are applied.
    """

    grams_LMM: Tensor
    per_column: bool


def row_grams(chunks: Chunks) -> VectorGrams:
    """Gram matrices of base and task vectors (of the inputs, without a base), one for each row."""
    parts = []
    for chunk in chunks():
        wide = list(_wide(chunk, of_task_vectors=True))
        parts.append(_pairwise(wide, dim=1))
    return VectorGrams(torch.cat(parts).cpu(), per_column=False)


def column_grams(chunks: Chunks) -> VectorGrams:
    """The same, one for each column: along the first dimension, however many there are."""
    total_LMM: Tensor | None = None
    for chunk in chunks():
        if chunk.is_vector:  # a tensor of one dimension is one vector, by rows and by columns
            return row_grams(chunks)
        if total_LMM is None:
            count, vectors = len(chunk.x_MRC), chunk.period * chunk.shape[1]
            total_LMM = torch.zeros(vectors, count, count, dtype=torch.float64, device=chunk.device)
        for block in _row_blocks(chunk):
            wide = list(_wide(block, of_task_vectors=True))
            if chunk.period == 1:
                total_LMM.add_(_pairwise(wide, dim=0))
                continue
            # Rows with one index of the first dimension belong to different vectors: none is added to twice.
            first = block.row % chunk.period * block.shape[1]
            part_LMM = _pairwise([x_RC.reshape(1, -1) for x_RC in wide], dim=0)
            total_LMM[first : first + len(part_LMM)].add_(part_LMM)
    if total_LMM is None:
        raise ValueError("a tensor without rows")
    return VectorGrams(total_LMM.cpu(), per_column=True)


def _row_blocks(chunk: Chunk) -> Iterator[Chunk]:
    """The chunk's blocks of rows; for more than two dimensions, one for each index of the first dimension."""
    row, rows = 0, chunk.shape[0]
    while row < rows:
        step = ROW_BLOCK
        if chunk.period > 1:
            step = chunk.period - (chunk.row + row) % chunk.period
        end = min(row + step, rows)
        yield Chunk(tuple(x_RC[row:end] for x_RC in chunk.x_MRC), chunk.row + row, chunk.has_base)
        row = end


def weighted_sum(chunk: Chunk, c_M: Tensor, _: None) -> Tensor:
    """Sum over m of c_M[m] * x_MRC[m], in the order of the inputs; inputs with c = 0 are not read."""
    coefficients: list[float] = c_M.tolist()
    out_RC: Tensor | None = None
    for x_RC, c in zip(chunk.x_MRC, coefficients, strict=True):
        if c == 0:
            continue
        # Multiply, then add: `add_(x, alpha=c)` is fused in its vector part only, so chunks would show.
        term_RC = x_RC.float() if c == 1 else torch.mul(x_RC.float(), c)
        out_RC = term_RC if out_RC is None else torch.add(out_RC, term_RC)
    return torch.zeros_like(chunk.x_MRC[0], dtype=torch.float32) if out_RC is None else out_RC


def vector_weighted_sum(chunk: Chunk, vectors: VectorCoefficients, _: None) -> Tensor:
    """The weighted sum with coefficients of its own for each row or column."""
    place = ChunkVectors(chunk, vectors)
    if vectors.c_LM.shape[0] == 1:
        return place.put_wide(weighted_sum(chunk, vectors.c_LM[0], None))
    out_RC = torch.zeros(chunk.shape, dtype=torch.float32, device=chunk.device)
    for m, x_RC in enumerate(chunk.x_MRC):
        out_RC.add_(torch.mul(x_RC.float(), place.coefficients(m)))
    return place.put_wide(out_RC)


def _wide(chunk: Chunk, *, of_task_vectors: bool) -> Iterator[Tensor]:
    """The inputs in float64, as they are or as base and task vectors."""
    first_RC = chunk.x_MRC[0].float().double()  # float64 weights are combined in float32 as well
    yield first_RC
    for x_RC in chunk.x_MRC[1:]:
        wide_RC = x_RC.float().double()
        yield wide_RC - first_RC if of_task_vectors and chunk.has_base else wide_RC


def _pairwise(wide: list[Tensor], dim: int) -> Tensor:
    """(L, M, M): sums of products along one dimension."""

    def add_up(product_RC: Tensor) -> Tensor:
        return product_RC.sum(dim=dim)

    rows = [[add_up(wide[max(i, j)] * wide[min(i, j)]) for j in range(len(wide))] for i in range(len(wide))]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
