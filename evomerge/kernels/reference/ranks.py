"""Exact ranks without sorting: a histogram finds the bin of a rank, one more read finds the element in it.

Values are float32 and not negative, so their bits have their order. A bin is the upper 15 bits of a value;
what remains to be found inside a bin are its lower 16 bits and, among equal values, the index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Chunks

__all__ = [
    "BINS",
    "LOW_BITS",
    "LOW_MASK",
    "Cutoff",
    "Exact",
    "ExactValues",
    "Finder",
    "Histogram",
    "Threshold",
    "histograms",
]

LOW_BITS = 16
LOW_MASK = (1 << LOW_BITS) - 1
BINS = 1 << 15

Fields = Callable[[Chunk], Iterable[Tensor]]
"""From a chunk, one or more tensors of float32 magnitudes as int32 bits; each (R, C)."""


@dataclass(frozen=True)
class Exact:
    """A cutoff whose value is known: its bits, and how many of the elements of that size are above it."""

    bits: int
    equal: int


@dataclass(frozen=True)
class Cutoff:
    """A place in the ranking of values: above it are ``taken`` elements of ``bin`` and all of higher bins.

    Elements rank by value, largest first, and equal ones by index, lowest first. ``l1`` is the sum of the
    values in higher bins, filled in where a rescale needs it.
    """

    bin: int
    taken: int
    l1: float = 0.0
    exact: Exact | None = None


@dataclass(frozen=True)
class ExactValues:
    """All values that occur, descending, as int32 bits; how many elements are as large or larger.

    NumPy arrays, in which a binary search takes a microsecond.
    """

    bits: Any
    from_top: Any

    def cutoff(self, rank: int) -> Exact:
        """The cutoff below the ``rank`` largest values."""
        place, above = _place(self.from_top, rank)
        return Exact(int(self.bits[place]), rank - above)


@dataclass(frozen=True)
class Histogram:
    """The bins that hold values, ascending: how many each holds, and the sum of their lower bits.

    With those sums the sum of a whole bin is exact. Empty bins are left out: a study keeps one histogram for
    each tensor of each model. Kernels for GPUs also want the ``values`` themselves; see ``gpu.ranks``.
    """

    bins: Tensor
    counts: Tensor
    lows: Tensor
    values: ExactValues | None = None

    @classmethod
    def of(cls, counts_B: Tensor, lows_B: Tensor) -> Histogram:
        """From counts and sums of all bins."""
        bins = torch.nonzero(counts_B).flatten()
        return cls(bins, counts_B[bins], lows_B[bins])

    @cached_property
    def elements(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @cached_property
    def _from_top(self) -> Any:
        return np.cumsum(self.counts.numpy()[::-1])

    def l1(self, first_bin: int = 0) -> float:
        """Sum of the values in ``first_bin`` and above, correctly rounded."""
        columns = (self.bins.tolist(), self.counts.tolist(), self.lows.tolist())
        return math.fsum(_bin_sum(b, n, low) for b, n, low in zip(*columns, strict=True) if b >= first_bin)

    def cutoff(self, rank: int, *, with_l1: bool = False) -> Cutoff:
        """The cutoff below the ``rank`` largest values, 0 < rank <= elements."""
        place, above = _place(self._from_top, rank)
        bin_ = int(self.bins[len(self.bins) - 1 - place])
        exact = self.values.cutoff(rank) if self.values is not None else None
        return Cutoff(bin_, rank - above, self.l1(bin_ + 1) if with_l1 else 0.0, exact)


@dataclass(frozen=True)
class Threshold:
    """An exact cutoff: value bits, and the index up to which equal values are above it."""

    bits: int
    index: int

    def above(self, bits_RC: Tensor, first: int) -> Tensor:
        """Which elements rank above the cutoff; ``first`` is the index of the first of them."""
        last = first + bits_RC.numel() - 1
        if self.index >= last:
            return bits_RC >= self.bits
        if self.index < first:
            return bits_RC > self.bits
        index_RC = torch.arange(first, last + 1, device=bits_RC.device).view(bits_RC.shape)
        return (bits_RC > self.bits) | ((bits_RC == self.bits) & (index_RC <= self.index))

    @property
    def value(self) -> float:
        """The value at the cutoff."""
        return float(torch.tensor(self.bits, dtype=torch.int32).view(torch.float32))


def histograms(chunks: Chunks, fields: Fields) -> tuple[Histogram, ...]:
    """The histogram of each field; one read."""
    totals: list[tuple[Tensor, Tensor]] = []
    for chunk in chunks():
        for i, bits_RC in enumerate(fields(chunk)):
            counts, lows = _histogram(bits_RC)
            if len(totals) == i:
                totals.append((counts, lows))
            else:
                totals[i][0].add_(counts)
                totals[i][1].add_(lows)
    return tuple(Histogram.of(counts.cpu(), lows.to(torch.int64).cpu()) for counts, lows in totals)


def _histogram(bits_RC: Tensor) -> tuple[Tensor, Tensor]:
    flat = bits_RC.flatten()
    bins = flat >> LOW_BITS
    # Sums of 16-bit integers are exact in float64, in any order.
    lows = torch.bincount(bins, weights=(flat & LOW_MASK).double(), minlength=BINS)
    return torch.bincount(bins, minlength=BINS), lows.to(torch.int64)


@dataclass
class Finder:
    """Collects the elements of the bins that cutoffs lie in, chunk by chunk, then finds the exact cutoffs."""

    cutoffs: Sequence[Cutoff]
    _collected: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def add(self, bits_RC: Tensor, first: int) -> None:
        """Looks through one chunk of the values."""
        flat = bits_RC.flatten()
        bins = flat >> LOW_BITS
        for bin_ in self.bins:
            index = torch.nonzero(bins == bin_).flatten()
            self.put(bin_, flat[index].cpu(), (index + first).cpu())

    @property
    def bins(self) -> tuple[int, ...]:
        """The bins to look into."""
        return tuple(dict.fromkeys(cutoff.bin for cutoff in self.cutoffs))

    def put(self, bin_: int, bits: Tensor, index: Tensor) -> None:
        """Elements of ``bin_``: bits (int32) and index (int64), in the order of the index."""
        self._collected.setdefault(bin_, []).append((bits, index))

    def find(self, cutoff: Cutoff) -> tuple[Threshold, float]:
        """The exact cutoff, and the sum of all values above it (if the cutoff has that of higher bins)."""
        values = self._values(cutoff).numpy()
        bits = int(np.partition(values, len(values) - cutoff.taken)[len(values) - cutoff.taken])
        above = values[values > bits]
        equal = cutoff.taken - len(above)
        index = self._index(cutoff)[int(np.flatnonzero(values == bits)[equal - 1])]
        lows = int((above & LOW_MASK).sum(dtype=np.int64)) + equal * (bits & LOW_MASK)
        return Threshold(bits, int(index)), cutoff.l1 + _bin_sum(cutoff.bin, cutoff.taken, lows)

    def select(self, cutoff: Cutoff, threshold: Threshold) -> Tensor:
        """Which of the elements of the cutoff's bin are above it, in the order they were added; bool."""
        values, index = self._values(cutoff), self._index(cutoff)
        return (values > threshold.bits) | ((values == threshold.bits) & (index <= threshold.index))

    def _index(self, cutoff: Cutoff) -> Tensor:
        return torch.cat([i for _, i in self._collected[cutoff.bin]])

    def _values(self, cutoff: Cutoff) -> Tensor:
        return torch.cat([v for v, _ in self._collected[cutoff.bin]])


def _place(from_top: Any, rank: int) -> tuple[int, int]:
    """Where element ``rank`` stands in running counts from the top, and how many stand in places above."""
    place = int(np.searchsorted(from_top, rank))
    return place, int(from_top[place - 1]) if place else 0


def _bin_sum(bin_: int, count: int, low: int) -> float:
    exponent, upper = bin_ >> 7, bin_ & 0x7F
    implicit = 1 << 23 if exponent else 0
    return math.ldexp(count * (implicit | upper << LOW_BITS) + low, max(exponent, 1) - 150)
