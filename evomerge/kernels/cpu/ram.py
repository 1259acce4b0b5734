"""RAM on a CPU."""

from __future__ import annotations

import numpy as np

from evomerge.kernels.chunks import Chunk, Chunks, Target
from evomerge.kernels.cpu.calls import InputAddresses, floats, functions, single
from evomerge.kernels.cpu.output import OutputRows
from evomerge.kernels.reference.ram import Ram, amplifications

__all__ = ["apply", "reduce"]


def reduce(chunks: Chunks, s: Ram) -> tuple[float, ...] | None:
    """See the reference."""
    if s.r == 0:
        return None
    counts = np.zeros((len(next(chunks()).x_MRC) - 1, 2), dtype=np.int64)
    for chunk in chunks():
        x = InputAddresses(chunk)
        functions().ram_counts(x.addresses, x.kind, x.elements, single(s.epsilon), counts)
    return amplifications(counts.tolist(), s)


def apply(chunk: Chunk, s: Ram, factors: tuple[float, ...] | None, target: Target) -> None:
    """See the reference."""
    x, out = InputAddresses(chunk), OutputRows(chunk, target)
    amplified = floats(factors if factors is not None else [1.0] * (len(chunk.x_MRC) - 1))
    n, epsilon = x.elements, single(s.epsilon)
    finite = functions().ram_apply(
        x.addresses, x.kind, n, epsilon, amplified, factors is not None, out.address, out.kind
    )
    out.finish(finite)
