"""The generalised task arithmetic: mask task vectors, elect signs, sum, put the L1 norm back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Chunks, block_sums, magnitude_bits, task_vectors
from evomerge.kernels.reference.random_masks import keep, random_bits, thresholds
from evomerge.kernels.reference.ranks import Cutoff, Finder, Histogram, Threshold, histograms

__all__ = [
    "L1_ZERO",
    "L1Norms",
    "Mask",
    "MaskedSum",
    "ResolvedMasks",
    "Trim",
    "apply",
    "elect",
    "magnitude_fields",
    "magnitudes",
    "random_mask",
    "rank_limits",
    "reduce",
    "resolve",
]

L1_ZERO = 1e-7
"""Below this an L1 norm counts as zero and nothing is rescaled, as in the dialect."""

L1Norms = tuple[list[float], list[float]]
"""L1 norms of a task vector before and after its random mask, block of rows by block of rows."""


def magnitudes(chunks: Chunks) -> tuple[Histogram, ...]:
    """One histogram of the magnitudes of each task vector; D of them."""
    return histograms(chunks, magnitude_fields)


def magnitude_fields(chunk: Chunk) -> Iterator[Tensor]:
    """The magnitudes of each task vector as int32 bits; D times (R, C)."""
    return (magnitude_bits(d_RC) for d_RC in task_vectors(chunk))


@dataclass(frozen=True)
class Trim:
    """Keeps the elements of a task vector that rank above ``last`` but not above ``first`` by magnitude."""

    last: Cutoff
    first: Cutoff | None = None

    @property
    def cutoffs(self) -> tuple[Cutoff, ...]:
        """Both ends."""
        return (self.last,) if self.first is None else (self.last, self.first)


@dataclass(frozen=True)
class Mask:
    """Which elements of one task vector survive.

    All of them; none (``empty``); those of a rank interval (``trim``); each with ``probability``, which with
    ``spread`` rises with the rank of the magnitude in its row, from probability - spread to + spread.
    ``l1`` is the L1 norm of the whole task vector, where the rescale of a trimmed one needs it; ``factor``
    multiplies what survives.
    """

    empty: bool = False
    trim: Trim | None = None
    probability: float = 1.0
    spread: float = 0.0
    key: int = 0
    l1: float = 0.0
    factor: float = 1.0

    @property
    def random(self) -> bool:
        """Whether the mask is random."""
        return self.probability < 1 and not self.empty

    @property
    def full(self) -> bool:
        """Whether nothing is dropped."""
        return not (self.empty or self.random or self.trim is not None)


@dataclass(frozen=True)
class MaskedSum:
    """The coefficients of one tensor: base + scale * sum over d of (weights[d] * mask_d(task vector d)).

    With ``consensus`` the elements that disagree with the elected sign are left out. With ``normalize`` the
    sum is divided by the weights that took part. With ``rescale`` each masked task vector gets back the L1
    norm it had.
    """

    weights: tuple[float, ...]
    masks: tuple[Mask, ...]
    scale: float
    consensus: bool
    normalize: bool
    rescale: bool

    @property
    def trims(self) -> dict[int, Trim]:
        """The rank intervals, by task vector."""
        return {d: mask.trim for d, mask in enumerate(self.masks) if mask.trim is not None}

    @property
    def to_rescale(self) -> list[int]:
        """Task vectors whose L1 norms must be taken around random masks."""
        return [d for d, mask in enumerate(self.masks) if self.rescale and mask.random]

    @property
    def divides(self) -> bool:
        """Whether the sum is divided: with fixed weights only by a total that is not about 0."""
        return self.normalize and (self.consensus or abs(math.fsum(self.weights)) >= 1e-8)


@dataclass(frozen=True)
class ResolvedMasks:
    """The result of the reduce pass: exact cutoffs by task vector, and the factors that restore L1 norms."""

    cutoffs: dict[tuple[int, Cutoff], Threshold] = field(default_factory=dict)
    factors: tuple[float, ...] = ()
    packed: Mapping[int, Any] = field(default_factory=dict)
    """Masks by rank that an implementation has computed on the way, by the row of their chunk."""

    def factor(self, d: int) -> float:
        """The factor of task vector ``d`` that restores its L1 norm."""
        return self.factors[d] if self.factors else 1.0


def reduce(chunks: Chunks, s: MaskedSum) -> ResolvedMasks | None:
    """One read: the elements in the bins of the cutoffs, and the L1 norms around random masks."""
    finders = {d: Finder(trim.cutoffs) for d, trim in s.trims.items()}
    norms: dict[int, L1Norms] = {d: ([], []) for d in s.to_rescale}
    if not finders and not norms:
        return None
    for chunk in chunks():
        for d, d_RC in enumerate(task_vectors(chunk)):
            if d in finders:
                finders[d].add(magnitude_bits(d_RC), chunk.first)
            if d in norms:
                size_RC = d_RC.abs()
                norms[d][0].extend(block_sums(size_RC).tolist())
                norms[d][1].extend(block_sums(size_RC * random_mask(chunk, d_RC, s.masks[d])).tolist())
    return resolve(s, finders, norms)


def resolve(
    s: MaskedSum,
    finders: Mapping[int, Finder],
    norms: Mapping[int, L1Norms],
    packed: Mapping[int, Any] | None = None,
) -> ResolvedMasks:
    """Exact cutoffs and factors from what a read has collected for each task vector."""
    cutoffs: dict[tuple[int, Cutoff], Threshold] = {}
    factors = []
    for d, mask in enumerate(s.masks):
        before, after = (math.fsum(v) for v in norms[d]) if d in norms else (0.0, 0.0)
        if mask.trim is not None:
            before = mask.l1
            cutoffs[d, mask.trim.last], after = finders[d].find(mask.trim.last)
            if mask.trim.first is not None:
                cutoffs[d, mask.trim.first], dropped = finders[d].find(mask.trim.first)
                after -= dropped
        factors.append(before / after if s.rescale and before > L1_ZERO and after > L1_ZERO else 1.0)
    return ResolvedMasks(cutoffs, tuple(factors), packed or {})


def apply(chunk: Chunk, s: MaskedSum, reduction: ResolvedMasks | None) -> Tensor:
    """Base plus the masked sum of the task vectors; (R, C), float32."""
    reduction = reduction if reduction is not None else ResolvedMasks()
    values, weights = [], []
    for d, (d_RC, weight, mask) in enumerate(zip(task_vectors(chunk), s.weights, s.masks, strict=True)):
        if mask.empty or weight == 0:
            continue
        kept_RC = _survivors(chunk, d, d_RC, mask, reduction)
        v_RC = torch.mul(d_RC, weight * mask.factor * reduction.factor(d))
        values.append(v_RC if kept_RC is None else v_RC.mul_(kept_RC))
        weights.append(weight)
    base_RC = chunk.x_MRC[0].float()
    if not values:
        return base_RC.clone()
    if s.consensus:
        sum_RC, weight_RC = elect(values, weights)
        if s.normalize:
            sum_RC.div_(weight_RC.masked_fill_(weight_RC == 0, 1))
    else:
        sum_RC = _sum(values)
        if s.divides:
            sum_RC.div_(math.fsum(s.weights))
    return torch.add(base_RC, sum_RC if s.scale == 1 else sum_RC.mul_(s.scale))


def elect(
    values: Sequence[Tensor], weights: Sequence[float], *, weighted: bool = False
) -> tuple[Tensor, Tensor]:
    """Elects a sign per element and adds what agrees with it (arXiv:2306.01708, alg. 1).

    Returns the sum of the values that agree (times their weights if ``weighted``) and the sum of the weights
    of those that did; both (R, C). A zero never agrees. The values are overwritten.
    """
    sign_RC = (_sum(values) >= 0).float().mul_(2).sub_(1)
    sum_RC, weight_RC = torch.zeros_like(sign_RC), torch.zeros_like(sign_RC)
    for v_RC, weight in zip(values, weights, strict=True):
        agree_RC = v_RC.mul_(sign_RC).clamp_(min=0)  # |v| where the signs agree, 0 elsewhere
        weight_RC.add_((agree_RC > 0).float().mul_(weight))
        sum_RC.add_(agree_RC.mul_(weight) if weighted else agree_RC)
    return sum_RC.mul_(sign_RC), weight_RC


def _sum(values: Sequence[Tensor]) -> Tensor:
    """The sum, in the order of the values, in memory of its own."""
    sum_RC = values[0].clone()
    for v_RC in values[1:]:
        sum_RC.add_(v_RC)
    return sum_RC


def _survivors(chunk: Chunk, d: int, d_RC: Tensor, mask: Mask, reduction: ResolvedMasks) -> Tensor | None:
    """Which elements survive, or ``None`` when all do."""
    if mask.random:
        return random_mask(chunk, d_RC, mask)
    if mask.trim is None:
        return None
    bits_RC = magnitude_bits(d_RC)
    first = chunk.first
    kept_RC = reduction.cutoffs[d, mask.trim.last].above(bits_RC, first)
    if mask.trim.first is not None:
        kept_RC &= ~reduction.cutoffs[d, mask.trim.first].above(bits_RC, first)
    return kept_RC


def rank_limits(mask: Mask, columns: int) -> Tensor:
    """The limit of a random number for each rank in a row, smallest magnitude first; (C,)."""
    share_C = torch.arange(columns, dtype=torch.float64) / (columns - 1)
    return thresholds(mask.probability - mask.spread + 2 * mask.spread * share_C)


def random_mask(chunk: Chunk, d_RC: Tensor, mask: Mask) -> Tensor:
    """The random mask of one chunk of a task vector; (R, C), bool."""
    rows, columns = chunk.shape
    drawn_RC = random_bits(mask.key, chunk.row, rows, columns, chunk.device)
    if mask.spread == 0 or columns == 1:
        return keep(drawn_RC, mask.probability)
    limit_C = rank_limits(mask, columns).to(chunk.device)
    order_RC = torch.sort(magnitude_bits(d_RC), dim=1, stable=True).indices
    limit_RC = torch.empty_like(drawn_RC).scatter_(1, order_RC, limit_C.expand(rows, columns))
    return drawn_RC < limit_RC
