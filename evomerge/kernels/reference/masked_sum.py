"""The generalised task arithmetic: mask task vectors, elect signs, sum, put the L1 norm back."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.chunks import (
    ROW_BLOCK,
    Chunk,
    Chunks,
    Fused,
    Kernel,
    Measure,
    Target,
    block_sums,
    magnitude_bits,
    task_vectors,
)
from evomerge.kernels.cpu.calls import Inputs, blocks, floats, functions, single, usable
from evomerge.kernels.dispatch import Output
from evomerge.kernels.gpu.launch import (
    FULL,
    RANDOM,
    TRIM,
    Launch,
    double_bits,
    float_bits,
    has_kernels,
    uploaded,
)
from evomerge.kernels.reference.random_masks import keep, random_bits, threshold, thresholds
from evomerge.kernels.reference.ranks import (
    BINS,
    Cut,
    Finder,
    Histogram,
    Threshold,
    exact_histograms,
    histograms,
)

__all__ = ["Mask", "MaskedSum", "Trim", "elect", "magnitudes", "masked_sum"]

_L1_ZERO = 1e-7
"""Below this an L1 norm counts as zero and nothing is rescaled, as in the dialect."""


def _magnitude_fields(chunk: Chunk) -> Iterator[Tensor]:
    return (magnitude_bits(d_RC) for d_RC in task_vectors(chunk))


def _magnitudes(chunks: Chunks) -> tuple[Histogram, ...]:
    totals: Tensor | None = None
    for chunk in chunks():
        if has_kernels(chunk.device):
            return exact_histograms(chunks, _magnitude_fields)
        if not usable(chunk):
            return histograms(chunks, _magnitude_fields)
        x = Inputs(chunk)
        if totals is None:
            totals = torch.zeros(2, len(chunk.x_MRC) - 1, BINS, dtype=torch.int64)
        counts, lows = totals.numpy()
        functions().magnitude_histograms(x.addresses, x.kind, x.elements, counts, lows)
    return () if totals is None else tuple(Histogram.of(c, low) for c, low in zip(*totals, strict=True))


magnitudes = Measure("magnitudes", _magnitudes)
"""One histogram of the magnitudes of each task vector."""


@dataclass(frozen=True)
class Trim:
    """Keeps the elements of a task vector that rank above ``last`` but not above ``first`` by magnitude."""

    last: Cut
    first: Cut | None = None

    @property
    def cuts(self) -> tuple[Cut, ...]:
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
        """Whether chance decides."""
        return self.probability < 1 and not self.empty

    @property
    def full(self) -> bool:
        """Whether nothing is dropped."""
        return not (self.empty or self.random or self.trim is not None)


@dataclass(frozen=True)
class MaskedSum:
    """The numbers of one tensor: base + scale * sum over d of (weights[d] * mask_d(task vector d)).

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


@dataclass(frozen=True)
class Resolved:
    """What the reduce pass found: exact cuts of each task vector, and the factors that restore L1 norms."""

    cuts: dict[tuple[int, Cut], Threshold] = field(default_factory=dict)
    factors: tuple[float, ...] = ()
    packed: dict[int, Any] = field(default_factory=dict)
    """Masks by rank that were found on the way, by the row of their chunk: bits, (D, R, C / 8)."""

    def factor(self, d: int) -> float:
        """Factor of task vector ``d``."""
        return self.factors[d] if self.factors else 1.0


def _reduce(chunks: Chunks, s: MaskedSum) -> Resolved | None:
    """One read: the elements in the bins of the cuts, and the L1 norms around random masks."""
    finders = {d: Finder(m.trim.cuts) for d, m in enumerate(s.masks) if m.trim is not None}
    sums: dict[int, tuple[list[float], list[float]]] = {
        d: ([], []) for d, m in enumerate(s.masks) if s.rescale and m.random
    }
    if not finders and not sums:
        return None
    packed: dict[int, Any] = {}
    for chunk in chunks():
        if usable(chunk):
            packed[chunk.row] = _native_reduce(chunk, s, finders, sums)
            continue
        first = chunk.first
        for d, d_RC in enumerate(task_vectors(chunk)):
            if d in finders:
                finders[d].add(magnitude_bits(d_RC), first)
            if d in sums:
                size_RC = d_RC.abs()
                sums[d][0].extend(block_sums(size_RC).tolist())
                sums[d][1].extend(block_sums(size_RC * random_mask(chunk, d_RC, s.masks[d])).tolist())
    cuts: dict[tuple[int, Cut], Threshold] = {}
    factors = []
    for d, mask in enumerate(s.masks):
        before, after = (math.fsum(v) for v in sums[d]) if d in sums else (0.0, 0.0)
        if mask.trim is not None:
            before = mask.l1
            cuts[d, mask.trim.last], after = finders[d].find(mask.trim.last)
            if mask.trim.first is not None:
                cuts[d, mask.trim.first], dropped = finders[d].find(mask.trim.first)
                after -= dropped
        factors.append(before / after if s.rescale and before > _L1_ZERO and after > _L1_ZERO else 1.0)
    return Resolved(cuts, tuple(factors), packed)


def _apply(chunk: Chunk, s: MaskedSum, found: Resolved | None) -> Tensor:
    found = found if found is not None else Resolved()
    values, weights = [], []
    for d, (d_RC, weight, mask) in enumerate(zip(task_vectors(chunk), s.weights, s.masks, strict=True)):
        if mask.empty or weight == 0:
            continue
        kept_RC = _kept(chunk, d, d_RC, mask, found)
        v_RC = torch.mul(d_RC, weight * mask.factor * found.factor(d))
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
        total = math.fsum(s.weights)
        if s.normalize and abs(total) >= 1e-8:
            sum_RC.div_(total)
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


def _kept(chunk: Chunk, d: int, d_RC: Tensor, mask: Mask, found: Resolved) -> Tensor | None:
    """Which elements survive, or ``None`` when all do."""
    if mask.random:
        return random_mask(chunk, d_RC, mask)
    if mask.trim is None:
        return None
    bits_RC = magnitude_bits(d_RC)
    first = chunk.first
    kept_RC = found.cuts[d, mask.trim.last].above(bits_RC, first)
    if mask.trim.first is not None:
        kept_RC &= ~found.cuts[d, mask.trim.first].above(bits_RC, first)
    return kept_RC


def rank_limits(mask: Mask, columns: int) -> Tensor:
    """What a drawn number must stay below for each rank in a row, smallest magnitude first; (C,)."""
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


def _native_reduce(
    chunk: Chunk,
    s: MaskedSum,
    finders: dict[int, Finder],
    sums: dict[int, tuple[list[float], list[float]]],
) -> Any:
    """Adds what a chunk holds to ``finders`` and ``sums``; its masks by rank, packed."""
    x = Inputs(chunk)
    n = x.elements
    first = chunk.first
    for d, finder in finders.items():
        inputs = x.addresses, x.kind, n, d
        finder.collect(n, lambda *room, inputs=inputs: functions().collect(*inputs, *room, first))
    modes = {d: _native_mask(s.masks[d], x.columns) for d in sums}
    ranked = any(mode == functions().RANKED for mode, _, _ in modes.values())
    shape = (x.rows, -(-x.columns // 8)) if ranked else (0, 0)
    packed = np.empty((len(s.masks), *shape), dtype=np.uint8)
    for d, (mode, keys, limits) in modes.items():
        before, after = np.zeros(blocks(x.rows)), np.zeros(blocks(x.rows))
        functions().random_l1(
            x.addresses,
            x.kind,
            x.rows,
            x.columns,
            x.row,
            d,
            mode,
            keys,
            limits,
            ROW_BLOCK,
            before,
            after,
            packed[d],
        )
        sums[d][0].extend(before.tolist())
        sums[d][1].extend(after.tolist())
    return packed


@functools.lru_cache(maxsize=256)
def _native_mask(mask: Mask, columns: int) -> tuple[int, Any, Any]:
    """Mode, keys and limits of one mask, as the compiled functions want them: the same for many chunks."""
    f = functions()
    keys = np.array([mask.key & 0xFFFFFFFF, mask.key >> 32], dtype=np.uint32)
    if mask.empty:
        return f.EMPTY, keys, np.zeros(1, dtype=np.int32)
    if mask.trim is not None:
        return f.TRIM, keys, np.zeros(1, dtype=np.int32)
    if not mask.random:
        return f.FULL, keys, np.zeros(1, dtype=np.int32)
    if mask.spread == 0 or columns == 1:
        return f.RANDOM, keys, np.array([threshold(mask.probability)], dtype=np.int32)
    return f.RANKED, keys, rank_limits(mask, columns).numpy()


def _native_apply(chunk: Chunk, s: MaskedSum, found: Resolved | None, target: Target) -> None:
    x, out = Inputs(chunk), Output(chunk, target)
    found = found if found is not None else Resolved()
    masks = [_native_mask(mask, x.columns) for mask in s.masks]
    limits = np.zeros((len(masks), max(len(m[2]) for m in masks)), dtype=np.int32)
    cuts = np.full((len(masks), 4), -1, dtype=np.int64)
    for d, mask in enumerate(s.masks):
        limits[d, : len(masks[d][2])] = masks[d][2]
        for k, cut in enumerate(mask.trim.cuts if mask.trim is not None else ()):
            exact = found.cuts[d, cut]
            cuts[d, 2 * k : 2 * k + 2] = exact.bits, exact.index
    total = math.fsum(s.weights)
    normalize = s.normalize and (s.consensus or abs(total) >= 1e-8)
    finite = functions().masked_sum(
        x.addresses,
        x.kind,
        x.rows,
        x.columns,
        x.row,
        floats(
            [w * m.factor * found.factor(d) for d, (w, m) in enumerate(zip(s.weights, s.masks, strict=True))]
        ),
        floats(s.weights),
        np.array([m[0] for m in masks], dtype=np.int64),
        cuts,
        np.array([m[1] for m in masks], dtype=np.uint32),
        limits,
        found.packed.get(chunk.row, np.empty((len(masks), 0, 0), dtype=np.uint8)),
        np.array([s.consensus, normalize, s.scale != 1], dtype=np.int64),
        single(total),
        single(s.scale),
        out.address,
        out.kind,
    )
    out.finish(finite)


# --------------------------------------------------------------------------- on a GPU


@dataclass(frozen=True)
class _Used:
    """The task vectors that add to a sum, in the form that Triton's kernels want them."""

    launch: Launch
    places: tuple[int, ...]
    mode: int
    cuts: int
    """For each of them; 0 but where magnitudes are trimmed."""


@dataclass(frozen=True)
class _FoundOnGpu:
    """The numbers of a tensor on its device: factors of L1 norms, and where the ties of cuts stand."""

    used: _Used
    factors: Tensor
    prefix: Tensor


def _used(s: MaskedSum) -> tuple[int, ...]:
    return tuple(d for d, mask in enumerate(s.masks) if not mask.empty and s.weights[d] != 0)


def _can_fused(chunk: Chunk, s: MaskedSum) -> bool:
    """All but ranks in rows, L1 norms of trimmed task vectors, and cuts whose value is not known."""
    for d in _used(s):
        mask = s.masks[d]
        if mask.trim is not None and (s.rescale or any(cut.exact is None for cut in mask.trim.cuts)):
            return False
        if mask.random and mask.spread != 0 and chunk.shape[1] > 1:
            return False
    return len(_used(s)) > 0


def _entries(mask: Mask, weight: float, mode: int) -> list[int]:
    """What the table holds for one task vector; see ``gpu.triton_kernels.masked_sum``."""
    entries = [double_bits(weight * mask.factor), float_bits(weight), 0, 0, 0, 0]
    if mode == RANDOM:
        limit = threshold(mask.probability) if mask.random else 2**31
        entries[2:5] = mask.key & 0xFFFFFFFF, mask.key >> 32, limit
    elif mode == TRIM:
        cuts = [cut.exact for cut in mask.trim.cuts] if mask.trim is not None else []
        entries[2:] = -1, 1, 0x7FFFFFFF, 1  # all is above the last cut, nothing above the first
        for k, exact in enumerate(cuts):
            if exact is not None:
                entries[2 + 2 * k : 4 + 2 * k] = exact.bits, exact.equal
    return entries


def _prepared(chunk: Chunk, s: MaskedSum, dtype: torch.dtype) -> _Used:
    places = _used(s)
    masks = [s.masks[d] for d in places]
    mode, cuts = FULL, 0
    if any(mask.random for mask in masks):
        mode = RANDOM
    elif any(mask.trim is not None for mask in masks):
        mode, cuts = TRIM, max(len(mask.trim.cuts) for mask in masks if mask.trim is not None)
    numbers = [float_bits(math.fsum(s.weights)), float_bits(s.scale)]
    for d, mask in zip(places, masks, strict=True):
        numbers += _entries(mask, s.weights[d], mode)
    x_MRC = (chunk.x_MRC[0], *(chunk.x_MRC[d + 1] for d in places))
    return _Used(Launch(x_MRC, numbers, dtype), places, mode, cuts)


@functools.cache
def _ones(count: int, device: torch.device) -> Tensor:
    return torch.ones(count, dtype=torch.float64, device=device)


def _fused_reduce(chunk: Chunk, s: MaskedSum, dtype: torch.dtype) -> _FoundOnGpu:
    """One read at most: ties of the cuts by block, or L1 norms around random masks."""
    used = _prepared(chunk, s, dtype)
    launch, count, device = used.launch, len(used.places), chunk.device
    factors = _ones(count, device)
    prefix = launch.numbers
    if used.cuts:
        counts = torch.empty(count, used.cuts, 1 + launch.blocks, dtype=torch.int32, device=device)
        launch.count_equal(counts)
        prefix = counts.cumsum(dim=2)
    if s.rescale and used.mode == RANDOM:
        before, after = launch.random_l1().sum(dim=0).unbind(dim=1)
        random = uploaded(tuple(int(s.masks[d].random) for d in used.places), device)
        counts_for = (random > 0) & (before > _L1_ZERO) & (after > _L1_ZERO)
        factors = torch.where(counts_for, before / after, factors)
    return _FoundOnGpu(used, factors, prefix)


def _fused_apply(chunk: Chunk, s: MaskedSum, found: _FoundOnGpu, target: Target) -> None:  # noqa: ARG001
    used = found.used
    used.launch.write(
        "masked_sum",
        target,
        (found.prefix, found.factors),
        COUNT=len(used.places),
        MODE=used.mode,
        CUTS=used.cuts,
        CONSENSUS=s.consensus,
        NORMALIZE=s.normalize and (s.consensus or abs(math.fsum(s.weights)) >= 1e-8),
        SCALED=s.scale != 1,
    )


masked_sum = Kernel(
    _apply,
    reduce=_reduce,
    native=_native_apply,
    fused=Fused(_fused_apply, reduce=_fused_reduce, can=_can_fused),
)
"""Numbers: MaskedSum."""
