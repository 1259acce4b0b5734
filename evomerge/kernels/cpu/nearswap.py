"""Nearswap on a CPU."""

from __future__ import annotations

from evomerge.kernels.chunks import Chunk, Target
from evomerge.kernels.cpu.calls import InputAddresses, functions, single
from evomerge.kernels.cpu.output import OutputRows

__all__ = ["apply"]


def apply(chunk: Chunk, t: float, _: None, target: Target) -> None:
    """See the reference."""
    x, out = InputAddresses(chunk), OutputRows(chunk, target)
    n = x.elements
    out.finish(functions().nearswap(x.addresses, x.kind, n, single(t), out.address, out.kind))
