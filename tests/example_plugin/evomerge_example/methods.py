"""A merge method: between the base and one model."""

from typing import Annotated

import torch
from torch import Tensor

from evomerge.kernels import weighted_sum
from evomerge.methods import Base, Range, merge_method


@merge_method("halfway", source="an example", kernel=weighted_sum, base=Base.REQUIRED, models=(1, 1))
def halfway(_: None, *, share: Annotated[float, Range("0 = base, 1 = the model", 0, 1)] = 0.5) -> Tensor:
    """Between base and model; c_M, base first."""
    return torch.tensor([1 - share, share], dtype=torch.float64)
