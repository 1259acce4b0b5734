"""The masked sum on a CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks, Target
from evomerge.kernels.cpu.calls import InputAddresses, blocks, floats, functions, single
from evomerge.kernels.cpu.output import OutputRows
from evomerge.kernels.cpu.ranks import Collector
from evomerge.kernels.reference.masked_sum import (
    L1Norms,
    Mask,
    MaskedSum,
    ResolvedMasks,
    rank_limits,
    resolve,
)
from evomerge.kernels.reference.random_masks import threshold
from evomerge.kernels.reference.ranks import BINS, Histogram

__all__ = ["apply", "magnitudes", "reduce"]


def magnitudes(chunks: Chunks) -> tuple[Histogram, ...]:
    """See the reference."""
    totals: Tensor | None = None
    for chunk in chunks():
        x = InputAddresses(chunk)
        if totals is None:
            totals = torch.zeros(2, len(chunk.x_MRC) - 1, BINS, dtype=torch.int64)
        counts, lows = totals.numpy()
        functions().magnitude_histograms(x.addresses, x.kind, x.elements, counts, lows)
    return () if totals is None else tuple(Histogram.of(c, low) for c, low in zip(*totals, strict=True))


def reduce(chunks: Chunks, s: MaskedSum) -> ResolvedMasks | None:
    """See the reference; masks by rank are kept, packed as bits, (D, R, C / 8)."""
    finders = {d: Collector(trim.cutoffs) for d, trim in s.trims.items()}
    norms: dict[int, L1Norms] = {d: ([], []) for d in s.to_rescale}
    if not finders and not norms:
        return None
    packed = {chunk.row: _read(chunk, s, finders, norms) for chunk in chunks()}
    return resolve(s, finders, norms, packed)


def _read(chunk: Chunk, s: MaskedSum, finders: Mapping[int, Collector], norms: Mapping[int, L1Norms]) -> Any:
    """Adds what a chunk holds to ``finders`` and ``norms``; its masks by rank, packed."""
    x = InputAddresses(chunk)
    n = x.elements
    first = chunk.first
    for d, finder in finders.items():
        inputs = x.addresses, x.kind, n, d
        finder.collect(n, lambda *room, inputs=inputs: functions().collect(*inputs, *room, first))
    modes = {d: _mask(s.masks[d], x.columns) for d in norms}
    ranked = any(mode == functions().RANKED for mode, _, _ in modes.values())
    shape = (x.rows, -(-x.columns // 8)) if ranked else (0, 0)
    packed = np.empty((len(s.masks), *shape), dtype=np.uint8)
    for d, (mode, keys, limits) in modes.items():
        before, after = np.zeros(blocks(x.rows)), np.zeros(blocks(x.rows))
        functions().random_l1(
            x.addresses,
            x.kind,
            x.rows,
            x.columns,
            x.row,
            d,
            mode,
            keys,
            limits,
            ROW_BLOCK,
            before,
            after,
            packed[d],
        )
        norms[d][0].extend(before.tolist())
        norms[d][1].extend(after.tolist())
    return packed


@functools.lru_cache(maxsize=256)
def _mask(mask: Mask, columns: int) -> tuple[int, Any, Any]:
    """Mode, keys and limits of one mask, as the compiled functions want them: the same for many chunks."""
    f = functions()
    keys = np.array([mask.key & 0xFFFFFFFF, mask.key >> 32], dtype=np.uint32)
    if mask.empty:
        return f.EMPTY, keys, np.zeros(1, dtype=np.int32)
    if mask.trim is not None:
        return f.TRIM, keys, np.zeros(1, dtype=np.int32)
    if not mask.random:
        return f.FULL, keys, np.zeros(1, dtype=np.int32)
    if mask.spread == 0 or columns == 1:
        return f.RANDOM, keys, np.array([threshold(mask.probability)], dtype=np.int32)
    return f.RANKED, keys, rank_limits(mask, columns).numpy()


def apply(chunk: Chunk, s: MaskedSum, reduction: ResolvedMasks | None, target: Target) -> None:
    """See the reference."""
    x, out = InputAddresses(chunk), OutputRows(chunk, target)
    reduction = reduction if reduction is not None else ResolvedMasks()
    masks = [_mask(mask, x.columns) for mask in s.masks]
    limits = np.zeros((len(masks), max(len(m[2]) for m in masks)), dtype=np.int32)
    cutoffs = np.full((len(masks), 4), -1, dtype=np.int64)
    for d, mask in enumerate(s.masks):
        limits[d, : len(masks[d][2])] = masks[d][2]
        for k, cutoff in enumerate(mask.trim.cutoffs if mask.trim is not None else ()):
            exact = reduction.cutoffs[d, cutoff]
            cutoffs[d, 2 * k : 2 * k + 2] = exact.bits, exact.index
    finite = functions().masked_sum(
        x.addresses,
        x.kind,
        x.rows,
        x.columns,
        x.row,
        floats(
            [
                w * m.factor * reduction.factor(d)
                for d, (w, m) in enumerate(zip(s.weights, s.masks, strict=True))
            ]
        ),
        floats(s.weights),
        np.array([m[0] for m in masks], dtype=np.int64),
        cutoffs,
        np.array([m[1] for m in masks], dtype=np.uint32),
        limits,
        reduction.packed.get(chunk.row, np.empty((len(masks), 0, 0), dtype=np.uint8)),
        np.array([s.consensus, s.divides, s.scale != 1], dtype=np.int64),
        single(math.fsum(s.weights)),
        single(s.scale),
        out.address,
        out.kind,
    )
    out.finish(finite)
