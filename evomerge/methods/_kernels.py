"""Measures and kernels: the only functions that touch weights.

Shape letters: M = inputs (base first where there is one), D = task vectors, R = rows, C = columns, B = bins.

A chunk is a run of whole rows of one tensor from every model, starting at a multiple of ``ROW_BLOCK``.
Everything here gives the same bits for any chunk size and any number of threads:

- elementwise work uses operations that are exactly rounded one by one (multiply, add, compare), never a
  fused or an approximated one whose vector and scalar versions differ;
- sums are taken per block of ``ROW_BLOCK`` rows in float64 and added exactly (``math.fsum``), and counts
  are integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.methods._random import keep, random_bits

__all__ = [
    "ROW_BLOCK",
    "Chunk",
    "Cut",
    "Kernel",
    "Mask",
    "MaskedSum",
    "Measure",
    "Trim",
    "gram",
    "magnitudes",
    "masked_sum",
    "nothing",
    "trim_at",
    "weighted_sum",
]

ROW_BLOCK = 16
"""Rows in one partial sum. Fixed, so that the size of a chunk cannot change the result."""

_LOW_BITS = 16
_BINS = 1 << 15
"""Bins of a histogram of float32 magnitudes: their upper 15 bits, whose order is that of the values."""


@dataclass(frozen=True)
class Chunk:
    """Rows ``row`` to ``row + R`` of one tensor from each input, in storage dtype; ``x_MRC[m]`` is (R, C)."""

    x_MRC: tuple[Tensor, ...]
    row: int

    @property
    def device(self) -> torch.device:
        """Where the chunk lies."""
        return self.x_MRC[0].device


@dataclass(frozen=True)
class Measure:
    """A statistic of the inputs that no searched parameter changes.

    ``part`` reads one chunk; ``total`` puts the parts together, in the order of the rows.
    """

    name: str
    part: Callable[[Chunk], Any] | None
    total: Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Kernel:
    """What happens to the weights of one tensor for one candidate.

    ``apply`` makes float32 rows from a chunk, the candidate's numbers, and the total of the optional
    ``reduce`` pass, whose parts come in the order of the rows. ``reduces`` says whether that pass is needed.
    """

    apply: Callable[[Chunk, Any, Any], Tensor]
    reduce: Callable[[Chunk, Any], Any] | None = None
    total: Callable[[Sequence[Any], Any], Any] | None = None
    reduces: Callable[[Any], bool] = lambda _: True


# --------------------------------------------------------------------------- measures


def block_sums(x_RC: Tensor) -> Tensor:
    """Sums of blocks of ``ROW_BLOCK`` rows, in float64; (blocks,).

    Each block is summed along its contiguous elements on its own, so its bits depend on nothing else.
    """
    rows, columns = x_RC.shape
    whole = rows - rows % ROW_BLOCK
    sums = []
    if whole:
        sums.append(x_RC[:whole].reshape(-1, ROW_BLOCK * columns).sum(dim=1, dtype=torch.float64))
    if whole < rows:
        sums.append(x_RC[whole:].reshape(1, -1).sum(dim=1, dtype=torch.float64))
    return torch.cat(sums) if len(sums) > 1 else sums[0]


def _gram_part(chunk: Chunk) -> list[list[list[float]]]:
    wide = [x_RC.double() for x_RC in chunk.x_MRC]
    # Products and sums rather than a matrix product: BLAS may sum in another order on another machine.
    return [[block_sums(a * b).tolist() for b in wide[: i + 1]] for i, a in enumerate(wide)]


def _gram_total(parts: Sequence[list[list[list[float]]]]) -> Tensor:
    count = len(parts[0])
    gram_MM = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(i + 1):
            value = math.fsum(v for part in parts for v in part[i][j])
            gram_MM[i, j] = gram_MM[j, i] = value
    return gram_MM


nothing = Measure("nothing", None, lambda _: None)
gram = Measure("gram", _gram_part, _gram_total)
"""Gram matrix of the inputs taken as vectors; (M, M), float64."""


@dataclass(frozen=True)
class Magnitudes:
    """Histograms of |x_d - base| per task vector over the upper bits of the float32 magnitude.

    ``counts_DB`` says how many elements fall into each bin, ``lows_DB`` is the sum of their lower 16 bits:
    with it the L1 norm of a whole bin is exact.
    """

    counts_DB: tuple[Tensor, ...]
    lows_DB: tuple[Tensor, ...]
    elements: int

    def l1(self, model: int, first_bin: int) -> float:
        """Sum of the magnitudes in bins ``first_bin`` and above, exact."""
        counts, lows = self.counts_DB[model], self.lows_DB[model]
        bins = torch.nonzero(counts[first_bin:]).flatten() + first_bin
        return math.fsum(_bin_l1(int(b), int(counts[b]), int(lows[b])) for b in bins.tolist())


def _bin_l1(bin_: int, count: int, low: int) -> float:
    exponent, upper = bin_ >> 7, bin_ & 0x7F
    implicit = 1 << 23 if exponent else 0
    mantissas = count * (implicit | upper << _LOW_BITS) + low
    return math.ldexp(mantissas, max(exponent, 1) - 150)


def _magnitudes_part(chunk: Chunk) -> list[tuple[Tensor, Tensor]]:
    parts = []
    for bits in (_bits(d_RC) for d_RC in _task_vectors(chunk)):
        flat = bits.flatten()
        bins = flat >> _LOW_BITS
        lows = torch.bincount(bins, weights=(flat & 0xFFFF).double(), minlength=_BINS)
        parts.append(
            (torch.bincount(bins, minlength=_BINS)[:_BINS].cpu(), lows[:_BINS].to(torch.int64).cpu())
        )
    return parts


def _magnitudes_total(parts: Sequence[list[tuple[Tensor, Tensor]]]) -> Magnitudes:
    models = range(len(parts[0]))
    counts = tuple(sum_tensors(part[d][0] for part in parts) for d in models)
    lows = tuple(sum_tensors(part[d][1] for part in parts) for d in models)
    return Magnitudes(counts, lows, int(counts[0].sum()))


def sum_tensors(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of integer tensors; the order does not matter."""
    iterator = iter(tensors)
    total = next(iterator).clone()
    for tensor in iterator:
        total += tensor
    return total


magnitudes = Measure("magnitudes", _magnitudes_part, _magnitudes_total)


# --------------------------------------------------------------------------- weighted sum


def _weighted_sum(chunk: Chunk, c_M: Tensor, _: None) -> Tensor:
    """Sum over m of c_M[m] * x_MRC[m], in the order of the inputs; inputs with c = 0 are not read."""
    coefficients: list[float] = c_M.tolist()
    out_RC: Tensor | None = None
    for x_RC, c in zip(chunk.x_MRC, coefficients, strict=True):
        if c == 0:
            continue
        # Multiply, then add: `add_(x, alpha=c)` is fused in its vector part only, so chunks would show.
        term_RC = x_RC.float() if c == 1 else torch.mul(x_RC.float(), c)
        out_RC = term_RC if out_RC is None else torch.add(out_RC, term_RC)
    return torch.zeros_like(chunk.x_MRC[0], dtype=torch.float32) if out_RC is None else out_RC


weighted_sum = Kernel(_weighted_sum)


# --------------------------------------------------------------------------- masked sum


@dataclass(frozen=True)
class Cut:
    """A place in the ranking of magnitudes: above it are ``taken`` elements of ``bin``, the largest.

    Elements rank by magnitude, equal ones by index, lowest first. ``l1`` is the L1 norm of the elements in
    higher bins; it is filled in where a rescale needs it.
    """

    bin: int
    taken: int
    l1: float = 0.0


@dataclass(frozen=True)
class Trim:
    """Keeps the elements that rank from ``first`` to ``last`` by magnitude; ``None`` = no bound there."""

    last: Cut | None
    first: Cut | None = None


@dataclass(frozen=True)
class Mask:
    """Which elements of one task vector survive: all, a rank interval, or each with ``probability``."""

    trim: Trim | None = None
    probability: float = 1.0
    key: int = 0
    empty: bool = False
    l1: float = 0.0
    """L1 norm of the whole task vector, where a rescale of a trimmed one needs it."""

    @property
    def full(self) -> bool:
        """Whether nothing is dropped."""
        return self.trim is None and self.probability >= 1 and not self.empty


@dataclass(frozen=True)
class MaskedSum:
    """The numbers of the generalised task arithmetic for one tensor.

    base + scale * sum over d of (weight_d * factor_d * mask_d * task vector_d), with the elements that
    disagree with the elected sign left out if ``consensus``, and divided by the weights that took part if
    ``normalize``. With ``rescale`` each masked task vector gets back the L1 norm it had.
    """

    weights: tuple[float, ...]
    masks: tuple[Mask, ...]
    scale: float
    consensus: bool
    normalize: bool
    rescale: bool


@dataclass(frozen=True)
class Threshold:
    """An exact rank cut: magnitude bits, and the index up to which equal magnitudes are above it."""

    bits: int
    index: int


@dataclass(frozen=True)
class _Resolved:
    """What the reduce pass found: exact cuts per task vector, and the factors that restore the L1 norm."""

    cuts: dict[tuple[int, Cut], Threshold]
    factors: tuple[float, ...]


@dataclass
class _Part:
    """What one chunk says: per (model, cut) the bin's low bits and indices; per model the L1 sums."""

    found: dict[tuple[int, int], tuple[Tensor, Tensor]]
    l1: list[tuple[list[float], list[float]]]


_L1_ZERO = 1e-7
"""Below this an L1 norm counts as zero and nothing is rescaled, as in the dialect."""


def trim_at(histogram: Magnitudes, model: int, rank: int, *, with_l1: bool = False) -> Cut:
    """The cut below the ``rank`` largest magnitudes of a task vector, 0 < rank < number of elements."""
    counts_B = histogram.counts_DB[model]
    from_top = torch.cumsum(counts_B.flip(0), 0)
    place = int(torch.searchsorted(from_top, rank))
    bin_ = counts_B.numel() - 1 - place
    above = int(from_top[place - 1]) if place else 0
    return Cut(bin_, rank - above, histogram.l1(model, bin_ + 1) if with_l1 else 0.0)


def _cuts(mask: Mask) -> tuple[Cut, ...]:
    if mask.trim is None:
        return ()
    return tuple(c for c in (mask.trim.last, mask.trim.first) if c is not None)


def _needs_pass(s: MaskedSum) -> bool:
    return any(_cuts(m) for m in s.masks) or (s.rescale and any(m.probability < 1 for m in s.masks))


def _masked_reduce(chunk: Chunk, s: MaskedSum) -> _Part:
    """One read of the inputs: the elements in the bins of the cuts, or the L1 sums of random masks."""
    part = _Part({}, [])
    columns = chunk.x_MRC[0].shape[1]
    for d, (d_RC, mask) in enumerate(zip(_task_vectors(chunk), s.masks, strict=True)):
        cuts = _cuts(mask)
        if cuts:
            flat = _bits(d_RC).flatten()
            bins = flat >> _LOW_BITS
            for bin_ in dict.fromkeys(c.bin for c in cuts):
                index = torch.nonzero(bins == bin_).flatten()
                part.found[d, bin_] = (flat[index].cpu(), (index + chunk.row * columns).cpu())
        if s.rescale and mask.probability < 1:
            size_RC = d_RC.abs()
            kept_RC = size_RC * _random_mask(chunk, mask)
            part.l1.append((block_sums(size_RC).tolist(), block_sums(kept_RC).tolist()))
        else:
            part.l1.append(([], []))
    return part


def _masked_total(parts: Sequence[_Part], s: MaskedSum) -> _Resolved:
    cuts: dict[tuple[int, Cut], Threshold] = {}
    factors = []
    for d, mask in enumerate(s.masks):
        l1 = {}
        for cut in _cuts(mask):
            values = torch.cat([part.found[d, cut.bin][0] for part in parts])
            index = torch.cat([part.found[d, cut.bin][1] for part in parts])
            cuts[d, cut], in_bin = _resolve(values, index, cut)
            l1[cut] = cut.l1 + in_bin
        factors.append(_factor(parts, d, mask, l1) if s.rescale else 1.0)
    return _Resolved(cuts, tuple(factors))


def _resolve(values: Tensor, index: Tensor, cut: Cut) -> tuple[Threshold, float]:
    """The exact cut among the elements of one bin, and the L1 norm of those above it."""
    order = torch.sort(values, descending=True, stable=True).indices  # equal values stay in index order
    last = order[cut.taken - 1]
    kept = values[order[: cut.taken]].view(torch.float32)
    return Threshold(int(values[last]), int(index[last])), math.fsum(kept.tolist())


def _factor(parts: Sequence[_Part], d: int, mask: Mask, l1: dict[Cut, float]) -> float:
    """L1 norm before over after, or 1 where either vanishes."""
    if mask.full or mask.empty:
        return 1.0
    if mask.trim is None:
        before = math.fsum(v for part in parts for v in part.l1[d][0])
        after = math.fsum(v for part in parts for v in part.l1[d][1])
    else:
        before = mask.l1
        after = l1[mask.trim.last] if mask.trim.last is not None else before
        after -= l1[mask.trim.first] if mask.trim.first is not None else 0.0
    return before / after if before > _L1_ZERO and after > _L1_ZERO else 1.0


def _masked_apply(chunk: Chunk, s: MaskedSum, total: _Resolved | None) -> Tensor:
    base_RC = chunk.x_MRC[0].float()
    terms: list[tuple[Tensor, float]] = []
    for d, (d_RC, weight, mask) in enumerate(zip(_task_vectors(chunk), s.weights, s.masks, strict=True)):
        if mask.empty or weight == 0:
            continue
        factor = total.factors[d] if total is not None and total.factors else 1.0
        v_RC = torch.mul(d_RC, weight * factor)
        kept_RC = _kept(chunk, d, d_RC, mask, total)
        terms.append((v_RC if kept_RC is None else v_RC.mul_(kept_RC), weight))
    if not terms:
        return base_RC.clone()
    sum_RC = _consensus(terms, s) if s.consensus else _plain(terms, s)
    return torch.add(base_RC, sum_RC.mul_(s.scale) if s.scale != 1 else sum_RC)


def _plain(terms: list[tuple[Tensor, float]], s: MaskedSum) -> Tensor:
    sum_RC = terms[0][0]
    for v_RC, _ in terms[1:]:
        sum_RC = sum_RC.add_(v_RC)
    if s.normalize:
        total = math.fsum(s.weights)
        if abs(total) >= 1e-8:
            sum_RC.div_(total)
    return sum_RC


def _consensus(terms: list[tuple[Tensor, float]], s: MaskedSum) -> Tensor:
    """Elect a sign per element, add what agrees with it, divide by its weights (arXiv:2306.01708, alg. 1)."""
    elected_RC = terms[0][0].clone()
    for v_RC, _ in terms[1:]:
        elected_RC.add_(v_RC)
    sign_RC = (elected_RC >= 0).float().mul_(2).sub_(1)
    sum_RC = torch.zeros_like(elected_RC)
    weight_RC = torch.zeros_like(elected_RC) if s.normalize else None
    for v_RC, weight in terms:
        agree_RC = v_RC.mul_(sign_RC).clamp_(min=0)  # |v| where the signs agree, 0 elsewhere
        sum_RC.add_(agree_RC)
        if weight_RC is not None:
            weight_RC.add_((agree_RC > 0).float().mul_(weight))
    sum_RC.mul_(sign_RC)
    if weight_RC is not None:
        weight_RC.masked_fill_(weight_RC == 0, 1)
        sum_RC.div_(weight_RC)
    return sum_RC


def _kept(chunk: Chunk, d: int, d_RC: Tensor, mask: Mask, total: _Resolved | None) -> Tensor | None:
    """Which elements survive, or ``None`` when all do."""
    if mask.probability < 1:
        return _random_mask(chunk, mask)
    if mask.trim is None or total is None:
        return None
    bits_RC = _bits(d_RC)
    kept_RC: Tensor | None = None
    if mask.trim.last is not None:
        kept_RC = _above(chunk, bits_RC, total.cuts[d, mask.trim.last])
    if mask.trim.first is not None:
        dropped_RC = _above(chunk, bits_RC, total.cuts[d, mask.trim.first])
        kept_RC = ~dropped_RC if kept_RC is None else kept_RC & ~dropped_RC
    return kept_RC


def _above(chunk: Chunk, bits_RC: Tensor, threshold: Threshold) -> Tensor:
    """Which elements rank above an exact cut."""
    rows, columns = bits_RC.shape
    first = chunk.row * columns
    last = first + rows * columns - 1
    if threshold.index >= last:
        return bits_RC >= threshold.bits
    if threshold.index < first:
        return bits_RC > threshold.bits
    index = torch.arange(first, last + 1, device=bits_RC.device).view(rows, columns)
    return (bits_RC > threshold.bits) | ((bits_RC == threshold.bits) & (index <= threshold.index))


def _random_mask(chunk: Chunk, mask: Mask) -> Tensor:
    rows, columns = chunk.x_MRC[0].shape
    return keep(random_bits(mask.key, chunk.row, rows, columns, chunk.device), mask.probability)


masked_sum = Kernel(_masked_apply, reduce=_masked_reduce, total=_masked_total, reduces=_needs_pass)


# --------------------------------------------------------------------------- helpers


def _task_vectors(chunk: Chunk) -> Iterable[Tensor]:
    """x_d - base in float32, one after the other: only one is in memory at a time."""
    base_RC = chunk.x_MRC[0].float()
    for x_RC in chunk.x_MRC[1:]:
        yield torch.sub(x_RC.float(), base_RC)


def _bits(d_RC: Tensor) -> Tensor:
    """The magnitude as an int32 that is ordered like it."""
    return d_RC.view(torch.int32) & 0x7FFFFFFF
