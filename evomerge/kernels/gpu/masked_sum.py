"""The masked sum on a GPU."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Chunks, Target
from evomerge.kernels.gpu.launch import FULL, RANDOM, TRIM, Launch, double_bits, float_bits, upload
from evomerge.kernels.gpu.ranks import exact_histograms
from evomerge.kernels.reference.masked_sum import L1_ZERO, Mask, MaskedSum, magnitude_fields
from evomerge.kernels.reference.random_masks import threshold
from evomerge.kernels.reference.ranks import Histogram

__all__ = ["apply", "can", "magnitudes", "reduce"]


def magnitudes(chunks: Chunks) -> tuple[Histogram, ...]:
    """See the reference; with the values that occur, so that a cutoff is known without waiting for it."""
    return exact_histograms(chunks, magnitude_fields)


@dataclass(frozen=True)
class _UsedVectors:
    """The task vectors that add to a sum, in the form that Triton's kernels want them."""

    launch: Launch
    places: tuple[int, ...]
    mode: int
    cutoffs: int
    """For each of them; 0 but where magnitudes are trimmed."""


@dataclass(frozen=True)
class _Reduction:
    """The result of the reduce pass, on the device: factors of L1 norms, and where ties of cutoffs are."""

    used: _UsedVectors
    factors: Tensor
    prefix: Tensor


def _used_indices(s: MaskedSum) -> tuple[int, ...]:
    return tuple(d for d, mask in enumerate(s.masks) if not mask.empty and s.weights[d] != 0)


def can(chunk: Chunk, s: MaskedSum) -> bool:
    """All but ranks in rows, L1 norms of trimmed task vectors, and cutoffs whose value is not known."""
    for d in _used_indices(s):
        mask = s.masks[d]
        if mask.trim is not None and (s.rescale or any(cutoff.exact is None for cutoff in mask.trim.cutoffs)):
            return False
        if mask.random and mask.spread != 0 and chunk.shape[1] > 1:
            return False
    return len(_used_indices(s)) > 0


def _entries(mask: Mask, weight: float, mode: int) -> list[int]:
    """What the table holds for one task vector; see ``triton_kernels.masked_sum``."""
    entries = [double_bits(weight * mask.factor), float_bits(weight), 0, 0, 0, 0]
    if mode == RANDOM:
        limit = threshold(mask.probability) if mask.random else 2**31
        entries[2:5] = mask.key & 0xFFFFFFFF, mask.key >> 32, limit
    elif mode == TRIM:
        cutoffs = [cutoff.exact for cutoff in mask.trim.cutoffs] if mask.trim is not None else []
        entries[2:] = -1, 1, 0x7FFFFFFF, 1  # all is above the last cutoff, nothing above the first
        for k, exact in enumerate(cutoffs):
            if exact is not None:
                entries[2 + 2 * k : 4 + 2 * k] = exact.bits, exact.equal
    return entries


def _prepare(chunk: Chunk, s: MaskedSum, dtype: torch.dtype) -> _UsedVectors:
    places = _used_indices(s)
    masks = [s.masks[d] for d in places]
    mode, cutoffs = FULL, 0
    if any(mask.random for mask in masks):
        mode = RANDOM
    elif any(mask.trim is not None for mask in masks):
        mode, cutoffs = TRIM, max(len(mask.trim.cutoffs) for mask in masks if mask.trim is not None)
    coefficients = [float_bits(math.fsum(s.weights)), float_bits(s.scale)]
    for d, mask in zip(places, masks, strict=True):
        coefficients += _entries(mask, s.weights[d], mode)
    x_MRC = (chunk.x_MRC[0], *(chunk.x_MRC[d + 1] for d in places))
    return _UsedVectors(Launch(x_MRC, coefficients, dtype), places, mode, cutoffs)


@functools.cache
def _ones(count: int, device: torch.device) -> Tensor:
    return torch.ones(count, dtype=torch.float64, device=device)


def reduce(chunk: Chunk, s: MaskedSum, dtype: torch.dtype) -> _Reduction:
    """One read at most: ties of the cutoffs by block, or L1 norms around random masks."""
    used = _prepare(chunk, s, dtype)
    launch, count, device = used.launch, len(used.places), chunk.device
    factors = _ones(count, device)
    prefix = launch.coefficients
    if used.cutoffs:
        counts = torch.empty(count, used.cutoffs, 1 + launch.blocks, dtype=torch.int32, device=device)
        launch.count_equal(counts)
        prefix = counts.cumsum(dim=2)
    if s.rescale and used.mode == RANDOM:
        before, after = launch.random_l1().sum(dim=0).unbind(dim=1)
        random = upload(tuple(int(s.masks[d].random) for d in used.places), device)
        counts_for = (random > 0) & (before > L1_ZERO) & (after > L1_ZERO)
        factors = torch.where(counts_for, before / after, factors)
    return _Reduction(used, factors, prefix)


def apply(_: Chunk, s: MaskedSum, reduction: _Reduction, target: Target) -> None:
    """See the reference."""
    used = reduction.used
    used.launch.write(
        "masked_sum",
        target,
        (reduction.prefix, reduction.factors),
        COUNT=len(used.places),
        MODE=used.mode,
        CUTOFFS=used.cutoffs,
        CONSENSUS=s.consensus,
        NORMALIZE=s.divides,
        SCALED=s.scale != 1,
    )
