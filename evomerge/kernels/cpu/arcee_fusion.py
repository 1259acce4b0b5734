"""Arcee fusion on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Chunks, Target
from evomerge.kernels.cpu.calls import InputAddresses, functions, single
from evomerge.kernels.cpu.output import OutputRows
from evomerge.kernels.cpu.ranks import Collector
from evomerge.kernels.reference.arcee_fusion import Importance, outlier_threshold, quartiles
from evomerge.kernels.reference.ranks import BINS, Histogram

__all__ = ["apply", "importance"]


def importance(chunks: Chunks) -> Importance:
    """See the reference."""
    divergence_R = torch.cat([_divergence(chunk) for chunk in chunks()])
    totals = torch.zeros(2, BINS, dtype=torch.int64)
    for chunk in chunks():
        counts, lows = totals.numpy()
        functions().value_histogram(_importance_of(chunk, divergence_R), counts, lows)
    finder = Collector(quartiles(Histogram.of(totals[0], totals[1])))
    for chunk in chunks():
        values, first = _importance_of(chunk, divergence_R), chunk.first
        finder.collect(
            values.size,
            lambda *room, values=values, first=first: functions().collect_values(values, *room, first),
        )
    return Importance(divergence_R, outlier_threshold(finder))


def _divergence(chunk: Chunk) -> Tensor:
    x, out_R = InputAddresses(chunk), torch.empty(chunk.shape[0], dtype=torch.float64)
    functions().divergence(x.addresses, x.kind, x.rows, x.columns, out_R.numpy())
    return out_R


def _importance_of(chunk: Chunk, divergence_R: Tensor) -> Any:
    """The importance of a chunk's elements; a NumPy array, (R * C,)."""
    x, out = InputAddresses(chunk), np.empty(chunk.shape[0] * chunk.shape[1], dtype=np.float32)
    factors = divergence_R[chunk.row : chunk.row + x.rows].to(torch.float32).numpy()
    functions().importance(x.addresses, x.kind, x.rows, x.columns, factors, out)
    return out


def apply(chunk: Chunk, s: Importance, _: None, target: Target) -> None:
    """See the reference."""
    x, out = InputAddresses(chunk), OutputRows(chunk, target)
    factors = s.divergence_R[chunk.row : chunk.row + x.rows].to(torch.float32).numpy()
    threshold = single(s.threshold)
    finite = functions().fusion(
        x.addresses, x.kind, x.rows, x.columns, factors, threshold, out.address, out.kind
    )
    out.finish(finite)
