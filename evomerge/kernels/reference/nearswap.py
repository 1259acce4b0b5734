"""Nearswap: take the other model where it is near."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk

__all__ = ["apply"]


def apply(chunk: Chunk, t: float, _: None) -> Tensor:
    """Towards the other model by min(1, t / |distance|), element by element; (R, C), float32."""
    base_RC, other_RC = (x_RC.float() for x_RC in chunk.x_MRC)
    distance_RC = torch.sub(base_RC, other_RC).abs_().clamp_(min=1e-6)
    share_RC = torch.div(t, distance_RC).clamp_(0, 1)
    return torch.add(share_RC * other_RC, torch.mul(torch.sub(1, share_RC), base_RC))
