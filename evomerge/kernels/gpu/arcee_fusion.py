"""Arcee fusion on a GPU."""

from __future__ import annotations

from evomerge.kernels.chunks import Chunk, Target
from evomerge.kernels.gpu.launch import FUSION, Launch, float_bits
from evomerge.kernels.reference.arcee_fusion import Importance

__all__ = ["apply"]


def apply(chunk: Chunk, s: Importance, _: None, target: Target) -> None:
    """See the reference."""
    divergence_R = s.divergence_R.float().to(chunk.device, non_blocking=True)
    launch = Launch(chunk.x_MRC, (float_bits(s.threshold),), target.dtype)
    launch.write("selected", target, (divergence_R,), COUNT=1, HOW=FUSION)
