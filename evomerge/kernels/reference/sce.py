"""SCE: select the positions where task vectors vary most, weight the models by them, erase minorities."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Chunks, block_sums, magnitude_bits, task_vectors
from evomerge.kernels.reference.masked_sum import elect
from evomerge.kernels.reference.ranks import LOW_BITS, Cutoff, Finder, Histogram, Threshold, histograms

__all__ = [
    "Collected",
    "ResolvedCutoff",
    "VarianceCutoff",
    "Variances",
    "apply",
    "reduce",
    "resolve",
    "variance",
    "variances",
]


@dataclass(frozen=True)
class Variances:
    """Histogram of the variance over task vectors at each position, and how many are not zero."""

    histogram: Histogram
    nonzero: int


def variance(d_DRC: list[Tensor]) -> Tensor:
    """Population variance over the task vectors, per position; (R, C), float32.

    Where all are equal it is exactly zero: a rounded mean must not make a difference of its own.
    """
    mean_RC = d_DRC[0].clone()
    for d_RC in d_DRC[1:]:
        mean_RC.add_(d_RC)
    mean_RC.div_(len(d_DRC))
    sum_RC = torch.zeros_like(mean_RC)
    differs_RC = torch.zeros_like(mean_RC, dtype=torch.bool)
    for d_RC in d_DRC:
        apart_RC = torch.sub(d_RC, mean_RC)
        sum_RC.add_(apart_RC.mul_(apart_RC))
        differs_RC |= d_RC != d_DRC[0]
    return torch.where(differs_RC, sum_RC.div_(len(d_DRC)), 0)


def variances(chunks: Chunks) -> Variances:
    """The statistic of ``Variances``; one read."""
    nonzero = 0

    def fields(chunk: Chunk) -> tuple[Tensor, ...]:
        nonlocal nonzero
        variance_RC = variance(list(task_vectors(chunk)))
        nonzero += int(torch.count_nonzero(variance_RC))
        return (magnitude_bits(variance_RC),)

    (histogram,) = histograms(chunks, fields)
    return Variances(histogram, nonzero)


@dataclass(frozen=True)
class VarianceCutoff:
    """The coefficients of SCE: positions whose variance ranks above ``cutoff`` (``None`` = all of them)."""

    cutoff: Cutoff | None
    empty: bool = False

    @property
    def cutoffs(self) -> tuple[Cutoff, ...]:
        """The cutoff, if there is one."""
        return () if self.cutoff is None else (self.cutoff,)


@dataclass(frozen=True)
class ResolvedCutoff:
    """The exact cutoff, and each model's share: the mean square of what it keeps of its task vector."""

    threshold: Threshold | None
    shares: tuple[float, ...]


@dataclass
class Collected:
    """What a read over the task vectors collects; squares are summed block of rows by block of rows.

    ``border`` holds, by task vector, its elements at the positions in the bin of the cutoff.
    """

    finder: Finder
    elements: int = 0
    squares: dict[int, list[float]] = field(default_factory=dict)
    border: dict[int, list[Tensor]] = field(default_factory=dict)


_NO_SHARE = 1e-6
"""Below this sum of mean squares all models get equal shares, as in the dialect."""


def reduce(chunks: Chunks, s: VarianceCutoff) -> ResolvedCutoff | None:
    """One read: the elements at the cutoff, and the squares of those surely above it."""
    if s.empty:
        return None
    collected = Collected(Finder(s.cutoffs))
    for chunk in chunks():
        collected.elements += chunk.x_MRC[0].numel()
        d_DRC = list(task_vectors(chunk))
        sure_RC, at_border = None, None
        if s.cutoff is not None:
            bits_RC = magnitude_bits(variance(d_DRC))
            collected.finder.add(bits_RC, chunk.first)
            sure_RC = (bits_RC >> LOW_BITS) > s.cutoff.bin
            at_border = torch.nonzero((bits_RC >> LOW_BITS).flatten() == s.cutoff.bin).flatten()
        for d, d_RC in enumerate(d_DRC):
            if at_border is not None:
                collected.border.setdefault(d, []).append(d_RC.flatten()[at_border].cpu())
            square_RC = torch.mul(d_RC, d_RC)
            collected.squares.setdefault(d, []).extend(
                block_sums(square_RC if sure_RC is None else square_RC.mul_(sure_RC)).tolist()
            )
    return resolve(s, collected)


def resolve(s: VarianceCutoff, collected: Collected) -> ResolvedCutoff:
    """The exact cutoff and the shares, from the result of a read."""
    threshold, squares = None, collected.squares
    if s.cutoff is not None:
        threshold, _ = collected.finder.find(s.cutoff)
        taken = collected.finder.select(s.cutoff, threshold)
        for d, parts in collected.border.items():
            kept = torch.cat(parts)[taken]
            squares[d].append(float(torch.mul(kept, kept).numpy().sum(dtype=np.float64)))
    means = [math.fsum(squares[d]) / collected.elements for d in sorted(squares)]
    total = math.fsum(means)
    shares = tuple(m / total for m in means) if total >= _NO_SHARE else (1 / len(means),) * len(means)
    return ResolvedCutoff(threshold, shares)


def apply(chunk: Chunk, _: VarianceCutoff, reduction: ResolvedCutoff | None) -> Tensor:
    """Base plus the consensus of the task vectors above the cutoff, weighted by shares; (R, C), float32."""
    base_RC = chunk.x_MRC[0].float()
    if reduction is None:
        return base_RC.clone()
    d_DRC = list(task_vectors(chunk))
    if reduction.threshold is not None:
        kept_RC = reduction.threshold.above(magnitude_bits(variance(d_DRC)), chunk.first)
        d_DRC = [d_RC.mul_(kept_RC) for d_RC in d_DRC]
    sum_RC, share_RC = elect(d_DRC, reduction.shares, weighted=True)
    return torch.add(base_RC, sum_RC.div_(share_RC.clamp_(min=1e-6)))
