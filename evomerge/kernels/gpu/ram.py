"""RAM on a GPU."""

from __future__ import annotations

from evomerge.kernels.chunks import Chunk, Target
from evomerge.kernels.gpu.launch import RAM, Launch, float_bits
from evomerge.kernels.reference.ram import Ram

__all__ = ["apply", "can"]


def can(_: Chunk, s: Ram) -> bool:
    """All but amplified changes, which must be counted first."""
    return s.r == 0


def apply(chunk: Chunk, s: Ram, _: None, target: Target) -> None:
    """See the reference."""
    launch = Launch(chunk.x_MRC, (float_bits(s.epsilon),), target.dtype)
    launch.write("selected", target, (launch.coefficients,), COUNT=len(chunk.x_MRC) - 1, HOW=RAM)
