"""Methods whose result is one linear combination of their inputs.

The coefficients come from the parameters alone or from the Gram matrix of the inputs, in float64. A vector
that such a method computes with is written as its coefficients over the inputs; see ``_Span``.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels import (
    InputMeasure,
    VectorCoefficients,
    VectorGrams,
    column_grams,
    gram,
    nothing,
    row_grams,
    stable_coefficients,
    task_gram,
    vector_weighted_sum,
    weighted_sum,
)
from evomerge.methods.registry import Base, Bound, PerModel, Range, merge_method

_Floats = NDArray[np.float64]

_COLLINEAR = 0.9995
_TINY_NORM = 1e-8
_RESOLVED_SIN = 1e-5
"""Sine of an angle below which vectors count as parallel or opposite. A Gram matrix in float64 has cosines to
some 1e-16, so the direction between vectors at this angle to one part in 1e5; a cosine in float32, as the
dialect computes it, cannot resolve sines below 3e-4."""
_RESOLVED_SUM = 1e-6
"""Length of a weighted sum of unit vectors, relative to the weights, below which they cancel out."""
_POLE = 1e-6
"""Model stock's ratio has a pole; this near to it there is no ratio and the base stays, as in the dialect."""
_CONVERGED = 1e-12
"""Step of a karcher mean that is too small to matter, whatever the tolerance."""

_Normalize = Annotated[bool, Range("divide by the sum of the weights")]


@merge_method("linear", source="Wortsman et al. 2022, arXiv:2203.05482", kernel=weighted_sum)
def linear(
    _: None, *, weight: Annotated[PerModel, Range("share of the model")], normalize: _Normalize = True
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
    normalize: _Normalize = False,
    lambda_: Annotated[float, Range("factor of the sum of the task vectors")] = 1.0,
) -> Tensor:
    """Base plus the weighted task vectors, written as one combination of base and models; c_M, base first."""
    total = math.fsum(weight)
    divisor = total if normalize and abs(total) >= 1e-8 else 1.0
    return _over_inputs([lambda_ * w / divisor for w in weight])


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


def _nuslerp_measure(parameters: Bound) -> InputMeasure:
    if parameters["nuslerp_flatten"]:
        return task_gram
    return column_grams if parameters["nuslerp_row_wise"] else row_grams


@merge_method(
    "nuslerp",
    source="Shoemake 1985, per row or per column; weights instead of t",
    measure=_nuslerp_measure,
    kernel=vector_weighted_sum,
    base=Base.OPTIONAL,
    models=(2, 2),
)
def nuslerp(
    grams: Tensor | VectorGrams,
    *,
    has_base: bool,
    weight: Annotated[PerModel, Range("share of the model; only their ratio counts")],
    nuslerp_flatten: Annotated[bool, Range("the tensor as one vector")] = True,  # noqa: ARG001
    nuslerp_row_wise: Annotated[bool, Range("vectors along the first dimension, not the last")] = False,  # noqa: ARG001
) -> VectorCoefficients:
    """Great-circle interpolation of two models, or of their task vectors; c_LM.

    Vectors that are parallel or opposite (|sin| < 1e-5) are interpolated linearly.
    """
    vectors = VectorGrams(grams[None], per_column=False) if isinstance(grams, Tensor) else grams
    first = 1 if has_base else 0
    g_L22 = vectors.grams_LMM.numpy()[:, first : first + 2, first : first + 2]
    total = weight[0] + weight[1]
    t = 0.5 if abs(total) < 1e-6 else weight[1] / total
    norms = [np.maximum(np.sqrt(np.maximum(g_L22[:, i, i], 0)), 1e-7) for i in range(2)]
    cos_L = np.minimum(np.maximum(g_L22[:, 0, 1] / (norms[0] * norms[1]), -1), 1)
    parallel_L = 1 - cos_L * cos_L < _RESOLVED_SIN**2
    angle_L = np.arccos(cos_L)
    safe_L = np.where(parallel_L, 1, np.sin(angle_L))
    c_ML = [np.where(parallel_L, share, np.sin(share * angle_L) / safe_L) for share in (1 - t, t)]
    if has_base:
        c_ML.insert(0, 1 - c_ML[0] - c_ML[1])
    return stable_coefficients(
        np.stack(c_ML, axis=1), vectors.grams_LMM.numpy(), has_base=has_base, per_column=vectors.per_column
    )


class _Span:
    """Vectors as coefficients over given ones, whose Gram matrix tells all lengths and angles."""

    def __init__(self, gram_MM: Tensor) -> None:
        if not bool(torch.isfinite(gram_MM).all()):
            raise ValueError("a model holds NaN or infinity")
        self.gram_MM: _Floats = gram_MM.numpy()
        self.norms = [math.sqrt(max(v, 0.0)) for v in self.gram_MM.diagonal().tolist()]

    def axis(self, i: int, scale: float = 1.0) -> _Floats:
        """The given vector ``i``, scaled; one without length is nothing, which no scale may change."""
        c_M = np.zeros(len(self.norms))
        c_M[i] = scale if self.norms[i] > 0 else 0.0
        return c_M

    def unit(self, i: int, eps: float = 0.0) -> _Floats:
        """The given vector ``i`` over its length (plus ``eps``)."""
        length = self.norms[i] + eps
        return self.axis(i, 1 / length if length > 0 else 0.0)

    def dot(self, a_M: _Floats, b_M: _Floats) -> float:
        # No matrix product: BLAS adds in an order of the machine's own.
        return float((a_M[:, None] * self.gram_MM * b_M).sum())

    def norm(self, a_M: _Floats) -> float:
        return math.sqrt(max(self.dot(a_M, a_M), 0.0))


@merge_method(
    "multislerp",
    source="Goddard et al. 2025, MergeKit: interpolation in the tangent space of a weighted mean direction",
    measure=task_gram,
    kernel=vector_weighted_sum,
    base=Base.OPTIONAL,
    models=(1, None),
)
def multislerp(
    gram_MM: Tensor,
    *,
    has_base: bool,
    weight: Annotated[PerModel, Range("share of the model")],
    normalize_weights: Annotated[bool, Range("divide the weights by their sum")] = True,
    eps: Annotated[float, Range("below this a length counts as zero", 0)] = 1e-8,
) -> VectorCoefficients:
    """Barycentre on the sphere in the tangent space of the mean direction, with the mean length; c_LM.

    A vector without length has no direction and takes no part in the mean. Where the mean is shorter than
    ``eps``, and where the directions of two models cancel out, the result is the weighted sum.
    """
    first = 1 if has_base else 0
    if len(weight) == 1:
        return stable_coefficients(
            np.array([[0.0, 1.0][1 - first :]]), gram_MM.numpy()[None], has_base=has_base
        )
    span = _Span(gram_MM[first:, first:])
    total = math.fsum(weight)
    if normalize_weights and total == 0:
        raise ValueError("the weights of a normalized multislerp sum to zero")
    w = [v / total for v in weight] if normalize_weights else list(weight)
    c_M = _barycentre(span, w, eps)
    if has_base:
        c_M = np.concatenate([[1 - math.fsum(c_M.tolist())], c_M])
    return stable_coefficients(c_M[None], gram_MM.numpy()[None], has_base=has_base)


def _barycentre(span: _Span, w: list[float], eps: float) -> _Floats:
    """Coefficients of multislerp over the vectors of ``span``."""
    unit = [span.unit(i, eps) for i in range(len(w))]
    mean_M = sum((v * u for v, u in zip(w, unit, strict=True)), span.axis(0, 0.0))
    size = span.norm(mean_M)
    reach = math.fsum(abs(v) * span.norm(u) for v, u in zip(w, unit, strict=True))
    cancels = size < _RESOLVED_SUM * reach
    if cancels or size < eps or size == 0:
        if cancels and len(w) != 2:
            raise ValueError("the weighted directions cancel out, so there is no mean to start from")
        return np.array([v if n > 0 else 0.0 for v, n in zip(w, span.norms, strict=True)])
    mean_M = mean_M / size
    tangent_M = span.axis(0, 0.0)
    for v, u in zip(w, unit, strict=True):
        tangent_M = tangent_M + v * (u - span.dot(u, mean_M) * mean_M)
    angle = span.norm(tangent_M) + eps
    length = math.fsum(v * n for v, n in zip(w, span.norms, strict=True))
    return (math.cos(angle) * mean_M + _sinc(angle) * tangent_M) * length


def _sinc(angle: float) -> float:
    """sin(angle) / angle."""
    return math.sin(angle) / angle if angle > 0 else 1.0


@merge_method(
    "karcher",
    source="Karcher 1977; Grove and Karcher 1973: Riemannian centre of mass on the sphere",
    measure=gram,
    kernel=vector_weighted_sum,
    models=(1, None),
)
def karcher(
    gram_MM: Tensor,
    *,
    weight: Annotated[PerModel, Range("share of the model (ours; equal in the dialect)", 0)] = (1.0,),
    max_iter: Annotated[int, Range("most steps", 1)] = 10,
    tol: Annotated[float, Range("steps and angles below this count as zero", 0)] = 1e-5,
) -> VectorCoefficients:
    """The direction with the least mean squared angle to all models, with their mean length; c_LM.

    A model opposite to the mean pulls in no direction more than in another, so it does not pull.
    """
    if len(weight) == 1:
        return stable_coefficients(np.ones((1, 1)), gram_MM.numpy()[None], has_base=False)
    span = _Span(gram_MM)
    total = math.fsum(weight)
    if total == 0:
        raise ValueError("the weights of a karcher mean sum to zero")
    share = [w / total for w in weight]
    length = math.fsum(a * n for a, n in zip(share, span.norms, strict=True))
    used = [i for i, n in enumerate(span.norms) if n > tol and share[i] > 0]
    if not used:
        return stable_coefficients(np.zeros((1, len(weight))), gram_MM.numpy()[None], has_base=False)
    kept = math.fsum(share[i] for i in used)
    alpha = {i: share[i] / kept for i in used}
    c_M = _centre(span, alpha, max_iter, tol) * length
    return stable_coefficients(c_M[None], gram_MM.numpy()[None], has_base=False)


def _centre(span: _Span, alpha: dict[int, float], max_iter: int, tol: float) -> _Floats:
    """Coefficients of the karcher mean of the directions in ``alpha``, by gradient descent."""
    unit = {i: span.unit(i) for i in alpha}
    u_M = sum((alpha[i] * unit[i] for i in alpha), span.axis(0, 0.0))
    size = span.norm(u_M)
    u_M = unit[next(iter(alpha))] if size < max(tol, _RESOLVED_SUM) else u_M / size
    for _ in range(max_iter):
        tangent_M = span.axis(0, 0.0)
        for i, a in alpha.items():
            cos = min(max(span.dot(u_M, unit[i]), -1.0), 1.0)
            angle = math.acos(cos)
            if angle >= tol and angle > 0 and (cos > 0 or 1 - cos * cos > _RESOLVED_SIN**2):
                tangent_M = tangent_M + a * angle / math.sin(angle) * (unit[i] - cos * u_M)
        step = span.norm(tangent_M)
        if step < max(tol, _CONVERGED):
            break
        u_M = math.cos(step) * u_M + _sinc(step) * tangent_M
        size = span.norm(u_M)
        u_M = u_M / size if size > 0 else u_M
    return u_M


def _model_stock_measure(parameters: Bound) -> InputMeasure:
    return row_grams if parameters["filter_wise"] else task_gram


@merge_method(
    "model_stock",
    source="Jang et al. 2024, arXiv:2403.19522",
    measure=_model_stock_measure,
    kernel=vector_weighted_sum,
    base=Base.REQUIRED,
    models=(2, None),
)
def model_stock(
    grams: Tensor | VectorGrams,
    *,
    filter_wise: Annotated[bool, Range("one ratio per row")] = False,  # noqa: ARG001
) -> VectorCoefficients:
    """Between the base and the mean of the models, by the mean angle between their task vectors; c_LM.

    Where the angles leave no ratio (two opposite task vectors, for example), the base stays.
    """
    g_LMM: _Floats = (grams[None] if isinstance(grams, Tensor) else grams.grams_LMM).numpy()
    count = g_LMM.shape[1] - 1
    norm_DL = [np.sqrt(np.maximum(g_LMM[:, d, d], 0)) for d in range(1, count + 1)]
    cosines = [
        g_LMM[:, 1 + i, 1 + j] / np.maximum(norm_DL[i] * norm_DL[j], 1e-6)
        for i in range(count)
        for j in range(i)
    ]
    cos_L = np.minimum(np.maximum(cosines, -1), 1).mean(axis=0)
    divisor_L = 1 + (count - 1) * cos_L
    pole_L = np.abs(divisor_L) < _POLE
    t_L = np.where(pole_L, 0, count * cos_L / np.where(pole_L, 1, divisor_L))
    return stable_coefficients(np.stack([1 - t_L, *[t_L / count] * count], axis=1), g_LMM, has_base=True)


@merge_method("passthrough", source="copies one model", measure=nothing, kernel=weighted_sum, models=(1, 1))
def passthrough(_: None, *, scale: Annotated[PerModel, Range("factor of the weights")] = (1.0,)) -> Tensor:
    """The one model, scaled; c_M."""
    return torch.tensor(scale, dtype=torch.float64)


def _over_inputs(c_D: list[float]) -> Tensor:
    """Coefficients of task vectors as coefficients of base and models."""
    return torch.tensor([1 - math.fsum(c_D), *c_D], dtype=torch.float64)
