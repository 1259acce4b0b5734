"""Histograms that keep the values themselves, so that a cutoff is found without waiting for the device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunks
from evomerge.kernels.reference.ranks import BINS, LOW_BITS, LOW_MASK, ExactValues, Fields, Histogram

__all__ = ["MOST_VALUES", "exact_histograms"]

MOST_VALUES = 1 << 18
"""Of one tensor of one model. Differences of 16-bit weights have some ten thousands; of float32 too many."""


def exact_histograms(chunks: Chunks, fields: Fields) -> tuple[Histogram, ...]:
    """As ``histograms``, by sorting, with the values that occur where they are not too many; one read.

    With them a cutoff is found without looking at the weights again, and nothing has to wait for that.
    """
    totals: list[tuple[Tensor, Tensor]] = []
    for chunk in chunks():
        for i, bits_RC in enumerate(fields(chunk)):
            bits, counts = torch.unique(bits_RC, return_counts=True)
            if len(totals) == i:
                totals.append((bits, counts))
            else:
                totals[i] = _join(totals[i], (bits, counts))
    return tuple(_exact(bits.cpu(), counts.cpu()) for bits, counts in totals)


def _join(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    bits, place = torch.unique(torch.cat([one[0], two[0]]), return_inverse=True)
    counts = torch.zeros(bits.numel(), dtype=torch.int64, device=bits.device)
    return bits, counts.index_add_(0, place, torch.cat([one[1], two[1]]))


def _exact(bits: Tensor, counts: Tensor) -> Histogram:
    bins, low = bits >> LOW_BITS, bits & LOW_MASK
    coarse = torch.zeros(2, BINS, dtype=torch.int64)
    coarse[0].index_add_(0, bins, counts)
    coarse[1].index_add_(0, bins, counts * low)
    values = None
    if bits.numel() <= MOST_VALUES:
        values = ExactValues(bits.flip(0).numpy(), torch.cumsum(counts.flip(0), 0).numpy())
    return replace(Histogram.of(coarse[0], coarse[1]), values=values)
