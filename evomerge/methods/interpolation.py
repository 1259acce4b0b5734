"""Methods whose result is one linear combination of their inputs.

The coefficients come from the parameters alone or from the Gram matrix of the inputs.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods._kernels import gram, weighted_sum
from evomerge.methods._registry import Base, PerModel, Range, merge_method

_COLLINEAR = 0.9995
_TINY_NORM = 1e-8


@merge_method("linear", source="Wortsman et al. 2022, arXiv:2203.05482", kernel=weighted_sum)
def linear(
    _: None,
    *,
    weight: Annotated[PerModel, Range("share of the model")],
    normalize: Annotated[bool, Range("divide by the sum of the weights")] = True,
) -> Tensor:
    """Weighted average of the models; c_M."""
    c_M = torch.tensor(weight, dtype=torch.float64)
    if not normalize:
        return c_M
    total = math.fsum(weight)
    if total == 0:
        raise ValueError("the weights of a normalized linear merge sum to zero")
    return c_M / total


@merge_method(
    "task_arithmetic", source="Ilharco et al. 2022, arXiv:2212.04089", kernel=weighted_sum, base=Base.REQUIRED
)
def task_arithmetic(
    _: None,
    *,
    weight: Annotated[PerModel, Range("factor of the task vector")],
    normalize: Annotated[bool, Range("divide by the sum of the weights")] = False,
    lambda_: Annotated[float, Range("factor of the sum of the task vectors")] = 1.0,
) -> Tensor:
    """Base plus the weighted task vectors, written as one combination of base and models; c_M, base first."""
    total = math.fsum(weight)
    divisor = total if normalize and abs(total) >= 1e-8 else 1.0
    c_D = [lambda_ * w / divisor for w in weight]
    return torch.tensor([1 - math.fsum(c_D), *c_D], dtype=torch.float64)


@merge_method(
    "slerp", source="Shoemake 1985", measure=gram, kernel=weighted_sum, base=Base.REQUIRED, models=(1, 1)
)
def slerp(gram_MM: Tensor, *, t: Annotated[float, Range("0 = base model, 1 = the other")]) -> Tensor:
    """Great-circle interpolation between two tensors taken as vectors; c_M.

    Nearly collinear inputs (|cos| > 0.9995) are interpolated linearly, as sin(angle) vanishes. A vector
    whose norm vanishes is not normalised, as in the dialect.
    """
    norms = [math.sqrt(float(gram_MM[i, i])) for i in range(2)]
    unit = [1.0 if n <= _TINY_NORM else n for n in norms]
    cos = float(gram_MM[0, 1]) / (unit[0] * unit[1])
    if abs(cos) > _COLLINEAR:
        return torch.tensor([1 - t, t], dtype=torch.float64)
    angle = math.acos(cos)
    c_M = torch.tensor([math.sin((1 - t) * angle), math.sin(t * angle)], dtype=torch.float64)
    return c_M / math.sin(angle)


@merge_method("passthrough", source="copies one model", kernel=weighted_sum, models=(1, 1))
def passthrough(_: None, *, scale: Annotated[PerModel, Range("factor of the weights")] = (1.0,)) -> Tensor:
    """The one model, scaled; c_M."""
    return torch.tensor(scale, dtype=torch.float64)
