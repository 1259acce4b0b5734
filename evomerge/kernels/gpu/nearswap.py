"""Nearswap on a GPU."""

from __future__ import annotations

from evomerge.kernels.chunks import Chunk, Target
from evomerge.kernels.gpu.launch import NEARSWAP, Launch, float_bits

__all__ = ["apply"]


def apply(chunk: Chunk, t: float, _: None, target: Target) -> None:
    """See the reference."""
    launch = Launch(chunk.x_MRC, (float_bits(t),), target.dtype)
    launch.write("selected", target, (launch.coefficients,), COUNT=1, HOW=NEARSWAP)
