"""Merge methods: one that uses an operation of evomerge, and one that brings its own."""

from typing import Annotated

import torch
from torch import Tensor

from evomerge.kernels import Chunk, Kernel, ReferenceKernel, weighted_sum
from evomerge.methods import Base, Range, merge_method


@merge_method("halfway", source="an example", kernel=weighted_sum, base=Base.REQUIRED, models=(1, 1))
def halfway(_: None, *, share: Annotated[float, Range("0 = base, 1 = the model", 0, 1)] = 0.5) -> Tensor:
    """Between base and model; c_M, base first."""
    return torch.tensor([1 - share, share], dtype=torch.float64)


def _add_clamped(chunk: Chunk, limit: float, _: None) -> Tensor:
    """Base + clamp(model - base, -limit, limit); (R, C), float32."""
    base_RC = chunk.x_MRC[0].float()
    return base_RC + (chunk.x_MRC[1].float() - base_RC).clamp(-limit, limit)


clamped_change = Kernel("clamped_change", ReferenceKernel(_add_clamped))


@merge_method("clamped", source="an example", kernel=clamped_change, base=Base.REQUIRED, models=(1, 1))
def clamped(_: None, *, limit: Annotated[float, Range("largest change of an element", 0)] = 0.01) -> float:
    """The model, no element of which moves further than ``limit`` from the base."""
    return limit
