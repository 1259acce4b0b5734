"""Linear combinations of the inputs: Gram matrices to find coefficients, weighted sums to apply them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks, Fused, Kernel, Measure, Target, block_sums
from evomerge.kernels.cpu.calls import Inputs, blocks, floats, functions, usable
from evomerge.kernels.dispatch import Output, write_plainly
from evomerge.kernels.gpu.launch import Launch, float_bits
from evomerge.kernels.reference.line_coefficients import LineCoefficients, Lines

__all__ = [
    "LineGrams",
    "column_grams",
    "gram",
    "line_weighted_sum",
    "row_grams",
    "task_gram",
    "weighted_sum",
    "write_weighted",
]


def _gram(chunks: Chunks, *, of_task_vectors: bool) -> Tensor:
    pairs: dict[tuple[int, int], list[float]] = {}
    for chunk in chunks():
        if usable(chunk):
            _native_gram(chunk, pairs, of_task_vectors=of_task_vectors)
            continue
        wide = list(_wide(chunk, of_task_vectors=of_task_vectors))
        for i, a_RC in enumerate(wide):
            for j, b_RC in enumerate(wide[: i + 1]):
                # Products and sums rather than a matrix product: BLAS picks its order of summation itself.
                pairs.setdefault((i, j), []).extend(block_sums(a_RC * b_RC).tolist())
    count = 1 + max(i for i, _ in pairs)
    gram_MM = torch.zeros(count, count, dtype=torch.float64)
    for (i, j), sums in pairs.items():
        gram_MM[i, j] = gram_MM[j, i] = math.fsum(sums)
    return gram_MM


def _native_gram(chunk: Chunk, pairs: dict[tuple[int, int], list[float]], *, of_task_vectors: bool) -> None:
    x = Inputs(chunk)
    count = len(chunk.x_MRC)
    sums = np.zeros((count * (count + 1) // 2, blocks(x.rows)))
    differences = of_task_vectors and chunk.has_base
    functions().gram(x.addresses, x.kind, x.rows, x.columns, differences, ROW_BLOCK, sums)
    order = [(i, j) for i in range(count) for j in range(i + 1)]
    for pair, values in zip(order, sums.tolist(), strict=True):
        pairs.setdefault(pair, []).extend(values)


gram = Measure("gram", lambda chunks: _gram(chunks, of_task_vectors=False))
"""Gram matrix of the inputs taken as vectors; (M, M), float64."""

task_gram = Measure("task_gram", lambda chunks: _gram(chunks, of_task_vectors=True))
"""The same of base and task vectors, subtracted before they are multiplied; without a base, ``gram``."""


@dataclass(frozen=True)
class LineGrams:
    """One Gram matrix per row (or per column) of a tensor; ``grams_LMM`` is (L, M, M), float64.

    ``per_column`` says along which dimension the coefficients lie when they are applied.
    """

    grams_LMM: Tensor
    per_column: bool


def _row_grams(chunks: Chunks) -> LineGrams:
    parts = []
    for chunk in chunks():
        wide = list(_wide(chunk, of_task_vectors=True))
        parts.append(_pairwise(wide, dim=1))
    return LineGrams(torch.cat(parts).cpu(), per_column=False)


def _column_grams(chunks: Chunks) -> LineGrams:
    total_LMM: Tensor | None = None
    for chunk in chunks():
        if chunk.is_vector:  # a vector has one line, whichever way one looks at it
            return _row_grams(chunks)
        if total_LMM is None:
            count, lines = len(chunk.x_MRC), chunk.period * chunk.shape[1]
            total_LMM = torch.zeros(lines, count, count, dtype=torch.float64, device=chunk.device)
        for block in _row_blocks(chunk):
            wide = list(_wide(block, of_task_vectors=True))
            if chunk.period == 1:
                total_LMM.add_(_pairwise(wide, dim=0))
                continue
            # Rows of one index of the first dimension are different lines, so none is added to twice.
            first = block.row % chunk.period * block.shape[1]
            part_LMM = _pairwise([x_RC.reshape(1, -1) for x_RC in wide], dim=0)
            total_LMM[first : first + len(part_LMM)].add_(part_LMM)
    if total_LMM is None:
        raise ValueError("a tensor without rows")
    return LineGrams(total_LMM.cpu(), per_column=True)


def _row_blocks(chunk: Chunk) -> Iterator[Chunk]:
    """The chunk's blocks of rows; for more than two dimensions, cut where the first one's index changes."""
    row, rows = 0, chunk.shape[0]
    while row < rows:
        step = ROW_BLOCK
        if chunk.period > 1:
            step = chunk.period - (chunk.row + row) % chunk.period
        end = min(row + step, rows)
        yield Chunk(tuple(x_RC[row:end] for x_RC in chunk.x_MRC), chunk.row + row, chunk.has_base)
        row = end


row_grams = Measure("row_grams", _row_grams)
"""Gram matrix of base and task vectors (of the inputs, without a base) for each row."""

column_grams = Measure("column_grams", _column_grams)
"""The same for each column: along the first dimension, however many there are."""


def _weighted_sum(chunk: Chunk, c_M: Tensor, _: None) -> Tensor:
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


def _native_weighted_sum(chunk: Chunk, c_M: Tensor, _: None, target: Target) -> None:
    write_weighted(chunk, c_M.tolist(), target)


def write_weighted(chunk: Chunk, coefficients: Sequence[float], target: Target) -> None:
    """The compiled weighted sum of a chunk's inputs, written to ``target``."""
    x, out = Inputs(chunk), Output(chunk, target)
    c, n = floats(coefficients), x.elements
    out.finish(
        functions().weighted_sum(x.addresses, x.kind, n, c, out.address, out.kind, *out.digest), digested=True
    )


def _can_weighted_sum(_: Chunk, c_M: Tensor) -> bool:
    return any(c_M.tolist())


def _fused_weighted_sum(chunk: Chunk, c_M: Tensor, _: None, target: Target) -> None:
    used = [(x_RC, c) for x_RC, c in zip(chunk.x_MRC, c_M.tolist(), strict=True) if c != 0]
    launch = Launch([x_RC for x_RC, _ in used], [float_bits(c) for _, c in used], target.dtype)
    no_lines = (launch.numbers,)
    launch.write("weighted_sum", target, no_lines, COUNT=len(used), LINES=0)


weighted_sum = Kernel(
    _weighted_sum, native=_native_weighted_sum, fused=Fused(_fused_weighted_sum, can=_can_weighted_sum)
)
"""Numbers: c_M, one coefficient per input, float64."""


def _line_weighted_sum(chunk: Chunk, lines: LineCoefficients, _: None) -> Tensor:
    place = Lines(chunk, lines)
    if lines.c_LM.shape[0] == 1:
        return place.put_wide(_weighted_sum(chunk, lines.c_LM[0], None))
    out_RC = torch.zeros(chunk.shape, dtype=torch.float32, device=chunk.device)
    for m, x_RC in enumerate(chunk.x_MRC):
        out_RC.add_(torch.mul(x_RC.float(), place.coefficients(m)))
    return place.put_wide(out_RC)


def _native_line_weighted_sum(chunk: Chunk, lines: LineCoefficients, found: None, target: Target) -> None:
    if lines.c_LM.shape[0] == 1 and lines.wide_L is None:
        _native_weighted_sum(chunk, lines.c_LM[0], found, target)
        return
    write_plainly(_line_weighted_sum(chunk, lines, found), chunk, target)


def _can_line_weighted_sum(chunk: Chunk, lines: LineCoefficients) -> bool:
    if lines.wide_L is not None or (lines.per_column and chunk.period > 1):
        return False
    return lines.c_LM.shape[0] > 1 or _can_weighted_sum(chunk, lines.c_LM[0])


def _fused_line_weighted_sum(chunk: Chunk, lines: LineCoefficients, found: None, target: Target) -> None:
    if lines.c_LM.shape[0] == 1:
        _fused_weighted_sum(chunk, lines.c_LM[0], found, target)
        return
    c_LM = lines.c_LM.float().contiguous().to(chunk.device, non_blocking=True)
    launch = Launch(chunk.x_MRC, (), target.dtype)
    along = 2 if lines.per_column else 1
    launch.write("weighted_sum", target, (c_LM,), COUNT=len(chunk.x_MRC), LINES=along)


line_weighted_sum = Kernel(
    _line_weighted_sum,
    native=_native_line_weighted_sum,
    fused=Fused(_fused_line_weighted_sum, can=_can_line_weighted_sum),
)
"""Numbers: LineCoefficients; those of a whole tensor are one line that serves every row."""


def _wide(chunk: Chunk, *, of_task_vectors: bool) -> Iterator[Tensor]:
    """The inputs in float64, as they are or as base and task vectors."""
    first_RC = chunk.x_MRC[0].float().double()  # float64 weights are combined in float32 as well
    yield first_RC
    for x_RC in chunk.x_MRC[1:]:
        wide_RC = x_RC.float().double()
        yield wide_RC - first_RC if of_task_vectors and chunk.has_base else wide_RC


def _pairwise(wide: list[Tensor], dim: int) -> Tensor:
    """(L, M, M): sums of products along one dimension."""

    def summed(product_RC: Tensor) -> Tensor:
        return product_RC.sum(dim=dim)

    rows = [[summed(wide[max(i, j)] * wide[min(i, j)]) for j in range(len(wide))] for i in range(len(wide))]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
