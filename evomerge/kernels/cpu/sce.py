"""SCE on a CPU."""

from __future__ import annotations

import numpy as np
import torch

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks, Target
from evomerge.kernels.cpu.calls import InputAddresses, blocks, floats, functions
from evomerge.kernels.cpu.linear_combinations import write_weighted
from evomerge.kernels.cpu.output import OutputRows
from evomerge.kernels.reference.ranks import BINS, Finder, Histogram
from evomerge.kernels.reference.sce import Collected, ResolvedCutoff, VarianceCutoff, Variances, resolve

__all__ = ["apply", "reduce", "variances"]


def variances(chunks: Chunks) -> Variances:
    """See the reference."""
    nonzero = 0
    totals = torch.zeros(2, BINS, dtype=torch.int64)
    counts, lows = totals.numpy()
    for chunk in chunks():
        x = InputAddresses(chunk)
        nonzero += functions().variance_histogram(x.addresses, x.kind, x.elements, counts, lows)
    return Variances(Histogram.of(totals[0], totals[1]), nonzero)


def reduce(chunks: Chunks, s: VarianceCutoff) -> ResolvedCutoff | None:
    """See the reference."""
    if s.empty:
        return None
    collected = Collected(Finder(s.cutoffs))
    for chunk in chunks():
        _read(chunk, s, collected)
    return resolve(s, collected)


def _read(chunk: Chunk, s: VarianceCutoff, collected: Collected) -> None:
    """Adds what a chunk holds to ``collected``."""
    x = InputAddresses(chunk)
    collected.elements += x.elements
    n, count = x.elements, len(chunk.x_MRC) - 1
    room = n + 1 if s.cutoff is not None else 1
    bits, index = torch.empty(room, dtype=torch.int32), torch.empty(room, dtype=torch.int64)
    values = torch.empty(count, room)
    sums = np.zeros((count, blocks(x.rows)))
    filled = functions().sce_reduce(
        x.addresses,
        x.kind,
        x.rows,
        x.columns,
        -1 if s.cutoff is None else s.cutoff.bin,
        ROW_BLOCK,
        sums,
        bits.numpy(),
        index.numpy(),
        values.numpy(),
        chunk.first,
    )
    if s.cutoff is not None:
        collected.finder.put(s.cutoff.bin, bits[:filled].clone(), index[:filled].clone())
    for d in range(count):
        collected.squares.setdefault(d, []).extend(sums[d].tolist())
        if s.cutoff is not None:
            collected.border.setdefault(d, []).append(values[d, :filled].clone())


def apply(chunk: Chunk, _: VarianceCutoff, reduction: ResolvedCutoff | None, target: Target) -> None:
    """See the reference."""
    if reduction is None:
        write_weighted(chunk, [1.0] + [0.0] * (len(chunk.x_MRC) - 1), target)
        return
    x, out = InputAddresses(chunk), OutputRows(chunk, target)
    n, first = x.elements, chunk.first
    cutoff = np.full(4, -1, dtype=np.int64)
    if reduction.threshold is not None:
        cutoff[:2] = reduction.threshold.bits, reduction.threshold.index
    out.finish(
        functions().sce_apply(
            x.addresses, x.kind, n, first, floats(reduction.shares), cutoff, out.address, out.kind
        )
    )
