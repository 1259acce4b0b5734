"""Kernels of the methods that choose elements by comparing models: SCE, nearswap, arcee fusion, RAM."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from evomerge.kernels.gpu.launch import FUSION, NEARSWAP, RAM, Launch, float_bits
from evomerge.kernels.reference.linear_combinations import write_weighted
from evomerge.kernels.reference.masked_sum import elect
from evomerge.kernels.reference.ranks import BINS, LOW_BITS, Cut, Finder, Histogram, Threshold, histograms

__all__ = [
    "Importance",
    "Ram",
    "VarianceCut",
    "Variances",
    "fusion",
    "importance",
    "nearswap",
    "ram",
    "sce",
    "variances",
]


# --------------------------------------------------------------------------- SCE


@dataclass(frozen=True)
class Variances:
    """Histogram of the variance over task vectors at each position, and how many are not zero."""

    histogram: Histogram
    nonzero: int


def _variance(d_DRC: list[Tensor]) -> Tensor:
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


def _variances(chunks: Chunks) -> Variances:
    nonzero = 0
    if usable(next(chunks())):
        totals = torch.zeros(2, BINS, dtype=torch.int64)
        counts, lows = totals.numpy()
        for chunk in chunks():
            x = Inputs(chunk)
            nonzero += functions().variance_histogram(x.addresses, x.kind, x.elements, counts, lows)
        return Variances(Histogram.of(totals[0], totals[1]), nonzero)

    def fields(chunk: Chunk) -> tuple[Tensor, ...]:
        nonlocal nonzero
        variance_RC = _variance(list(task_vectors(chunk)))
        nonzero += int(torch.count_nonzero(variance_RC))
        return (magnitude_bits(variance_RC),)

    (histogram,) = histograms(chunks, fields)
    return Variances(histogram, nonzero)


variances = Measure("variances", _variances)


@dataclass(frozen=True)
class VarianceCut:
    """The numbers of SCE: positions whose variance ranks above ``cut`` (``None`` = all of them)."""

    cut: Cut | None
    empty: bool = False


@dataclass(frozen=True)
class _SceFound:
    """The exact cut, and each model's share: the mean square of what it keeps of its task vector."""

    threshold: Threshold | None
    shares: tuple[float, ...]


_NO_SHARE = 1e-6
"""Below this sum of mean squares all models get equal shares, as in the dialect."""


def _sce_reduce(chunks: Chunks, s: VarianceCut) -> _SceFound | None:
    """One read: the elements at the cut, and the squares of those surely above it."""
    if s.empty:
        return None
    finder = Finder(() if s.cut is None else (s.cut,))
    squares: dict[int, list[float]] = {}
    border: dict[int, list[Tensor]] = {}
    elements = 0
    for chunk in chunks():
        elements += chunk.x_MRC[0].numel()
        if usable(chunk):
            _native_sce_reduce(chunk, s, finder, squares, border)
            continue
        d_DRC = list(task_vectors(chunk))
        sure_RC, at_border = None, None
        if s.cut is not None:
            bits_RC = magnitude_bits(_variance(d_DRC))
            finder.add(bits_RC, chunk.first)
            sure_RC = (bits_RC >> LOW_BITS) > s.cut.bin
            at_border = torch.nonzero((bits_RC >> LOW_BITS).flatten() == s.cut.bin).flatten()
        for d, d_RC in enumerate(d_DRC):
            if at_border is not None:
                border.setdefault(d, []).append(d_RC.flatten()[at_border].cpu())
            square_RC = torch.mul(d_RC, d_RC)
            squares.setdefault(d, []).extend(
                block_sums(square_RC if sure_RC is None else square_RC.mul_(sure_RC)).tolist()
            )
    threshold = None
    if s.cut is not None:
        threshold, _ = finder.find(s.cut)
        taken = finder.taken(s.cut, threshold)
        for d, parts in border.items():
            kept = torch.cat(parts)[taken]
            squares[d].append(float(torch.mul(kept, kept).numpy().sum(dtype=np.float64)))
    means = [math.fsum(squares[d]) / elements for d in sorted(squares)]
    total = math.fsum(means)
    shares = tuple(m / total for m in means) if total >= _NO_SHARE else (1 / len(means),) * len(means)
    return _SceFound(threshold, shares)


def _sce_apply(chunk: Chunk, _: VarianceCut, found: _SceFound | None) -> Tensor:
    base_RC = chunk.x_MRC[0].float()
    if found is None:
        return base_RC.clone()
    d_DRC = list(task_vectors(chunk))
    if found.threshold is not None:
        kept_RC = found.threshold.above(magnitude_bits(_variance(d_DRC)), chunk.first)
        d_DRC = [d_RC.mul_(kept_RC) for d_RC in d_DRC]
    sum_RC, share_RC = elect(d_DRC, found.shares, weighted=True)
    return torch.add(base_RC, sum_RC.div_(share_RC.clamp_(min=1e-6)))


def _native_sce_reduce(
    chunk: Chunk,
    s: VarianceCut,
    finder: Finder,
    squares: dict[int, list[float]],
    border: dict[int, list[Tensor]],
) -> None:
    x = Inputs(chunk)
    n, count = x.elements, len(chunk.x_MRC) - 1
    room = n + 1 if s.cut is not None else 1
    bits, index = torch.empty(room, dtype=torch.int32), torch.empty(room, dtype=torch.int64)
    found = torch.empty(count, room)
    sums = np.zeros((count, blocks(x.rows)))
    filled = functions().sce_reduce(
        x.addresses,
        x.kind,
        x.rows,
        x.columns,
        -1 if s.cut is None else s.cut.bin,
        ROW_BLOCK,
        sums,
        bits.numpy(),
        index.numpy(),
        found.numpy(),
        chunk.first,
    )
    if s.cut is not None:
        finder.put(s.cut.bin, bits[:filled].clone(), index[:filled].clone())
    for d in range(count):
        squares.setdefault(d, []).extend(sums[d].tolist())
        if s.cut is not None:
            border.setdefault(d, []).append(found[d, :filled].clone())


def _native_sce_apply(chunk: Chunk, _: VarianceCut, found: _SceFound | None, target: Target) -> None:
    if found is None:
        write_weighted(chunk, [1.0] + [0.0] * (len(chunk.x_MRC) - 1), target)
        return
    x, out = Inputs(chunk), Output(chunk, target)
    n, first = x.elements, chunk.first
    cut = np.full(4, -1, dtype=np.int64)
    if found.threshold is not None:
        cut[:2] = found.threshold.bits, found.threshold.index
    out.finish(
        functions().sce_apply(x.addresses, x.kind, n, first, floats(found.shares), cut, out.address, out.kind)
    )


sce = Kernel(_sce_apply, reduce=_sce_reduce, native=_native_sce_apply)
"""Numbers: VarianceCut."""


# --------------------------------------------------------------------------- nearswap


def _nearswap(chunk: Chunk, t: float, _: None) -> Tensor:
    """Towards the other model by min(1, t / |distance|), element by element."""
    base_RC, other_RC = (x_RC.float() for x_RC in chunk.x_MRC)
    distance_RC = torch.sub(base_RC, other_RC).abs_().clamp_(min=1e-6)
    share_RC = torch.div(t, distance_RC).clamp_(0, 1)
    return torch.add(share_RC * other_RC, torch.mul(torch.sub(1, share_RC), base_RC))


def _native_nearswap(chunk: Chunk, t: float, _: None, target: Target) -> None:
    x, out = Inputs(chunk), Output(chunk, target)
    n = x.elements
    out.finish(functions().nearswap(x.addresses, x.kind, n, single(t), out.address, out.kind))


def _fused_nearswap(chunk: Chunk, t: float, _: None, target: Target) -> None:
    launch = Launch(chunk.x_MRC, (float_bits(t),), target.dtype)
    launch.write("selected", target, (launch.numbers,), COUNT=1, HOW=NEARSWAP)


nearswap = Kernel(_nearswap, native=_native_nearswap, fused=Fused(_fused_nearswap))
"""Numbers: t."""


# --------------------------------------------------------------------------- arcee fusion


@dataclass(frozen=True)
class Importance:
    """How far each row of the other model diverges from the base's; from what importance on it counts."""

    divergence_R: Tensor
    threshold: float


def _divergence(chunk: Chunk) -> Tensor:
    """KL divergence of softmax(other) from softmax(base) per row, in float64; (R,).

    Blocks of rows go through one by one: an exponential may round differently at another place of a vector.
    """
    if usable(chunk):
        x, out_R = Inputs(chunk), torch.empty(chunk.shape[0], dtype=torch.float64)
        functions().divergence(x.addresses, x.kind, x.rows, x.columns, out_R.numpy())
        return out_R
    parts = []
    for row in range(0, chunk.shape[0], ROW_BLOCK):
        base_RC, other_RC = (x_RC[row : row + ROW_BLOCK].double() for x_RC in chunk.x_MRC)
        p_RC = torch.softmax(other_RC, dim=1) + 1e-8
        q_RC = torch.softmax(base_RC, dim=1) + 1e-8
        parts.append((p_RC * torch.log(p_RC / q_RC)).sum(dim=1))
    return torch.cat(parts)


def _importance_of(chunk: Chunk, divergence_R: Tensor) -> Tensor:
    if usable(chunk):
        x, out_RC = Inputs(chunk), torch.empty(chunk.shape)
        factors = divergence_R.to(torch.float32).numpy()
        functions().importance(x.addresses, x.kind, x.rows, x.columns, factors, out_RC.view(-1).numpy())
        return out_RC
    (d_RC,) = task_vectors(chunk)
    # The divergence is not negative but for its rounding; importance is ranked by magnitude.
    return d_RC.abs_().mul_(divergence_R.to(chunk.device, torch.float32)[:, None].abs())


def _importance(chunks: Chunks) -> Importance:
    """Three reads, once per study: no parameter changes any of it."""
    divergence_R = torch.cat([_divergence(chunk) for chunk in chunks()])

    def bits(chunk: Chunk) -> Tensor:
        rows = divergence_R[chunk.row : chunk.row + chunk.shape[0]]
        return magnitude_bits(_importance_of(chunk, rows))

    (histogram,) = histograms(chunks, lambda chunk: (bits(chunk),))
    last = histogram.elements - 1
    # The value at place k of the ascending order is the one that ends the ranks 1 ... n - k from the top.
    cuts = [histogram.cut(histogram.elements - int(q * last)) for q in (0.25, 0.5, 0.75)]
    finder = Finder(cuts)
    for chunk in chunks():
        finder.add(bits(chunk), chunk.first)
    q1, median, q3 = (finder.find(cut)[0].value for cut in cuts)
    return Importance(divergence_R.cpu(), median + 1.5 * (q3 - q1))


importance = Measure("importance", _importance)


def _fusion(chunk: Chunk, s: Importance, _: None) -> Tensor:
    """The base, with the task vector added where it is important."""
    rows = s.divergence_R[chunk.row : chunk.row + chunk.shape[0]]
    (d_RC,) = task_vectors(chunk)
    return torch.add(chunk.x_MRC[0].float(), d_RC.mul_(_importance_of(chunk, rows) >= s.threshold))


def _native_fusion(chunk: Chunk, s: Importance, _: None, target: Target) -> None:
    x, out = Inputs(chunk), Output(chunk, target)
    factors = s.divergence_R[chunk.row : chunk.row + x.rows].to(torch.float32).numpy()
    threshold = single(s.threshold)
    finite = functions().fusion(
        x.addresses, x.kind, x.rows, x.columns, factors, threshold, out.address, out.kind
    )
    out.finish(finite)


def _fused_fusion(chunk: Chunk, s: Importance, _: None, target: Target) -> None:
    divergence_R = s.divergence_R.float().to(chunk.device, non_blocking=True)
    launch = Launch(chunk.x_MRC, (float_bits(s.threshold),), target.dtype)
    launch.write("selected", target, (divergence_R,), COUNT=1, HOW=FUSION)


fusion = Kernel(_fusion, native=_native_fusion, fused=Fused(_fused_fusion))
"""Numbers: Importance."""


# --------------------------------------------------------------------------- RAM


@dataclass(frozen=True)
class Ram:
    """The numbers of RAM: which changes are active, and how unique ones are amplified (r = 0: not)."""

    epsilon: float
    r: float = 0.0
    alpha: float = 0.0


def _active(chunk: Chunk, epsilon: float) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Task vectors, where each is active, and in how many models an element is."""
    d_DRC = list(task_vectors(chunk))
    active_DRC = [d_RC.abs() > epsilon for d_RC in d_DRC]
    count_RC = torch.zeros(chunk.shape, dtype=torch.float32, device=chunk.device)
    for active_RC in active_DRC:
        count_RC.add_(active_RC)
    return d_DRC, active_DRC, count_RC


def _ram_reduce(chunks: Chunks, s: Ram) -> tuple[float, ...] | None:
    """Per model, the factor of its unique changes: 1 + r * clip(shared / unique, 0, alpha)."""
    if s.r == 0:
        return None
    counts: list[list[int]] = []
    for chunk in chunks():
        if usable(chunk):
            x = Inputs(chunk)
            counts = counts or [[0, 0] for _ in chunk.x_MRC[1:]]
            totals = np.array(counts, dtype=np.int64)
            functions().ram_counts(x.addresses, x.kind, x.elements, single(s.epsilon), totals)
            counts = totals.tolist()
            continue
        d_DRC, active_DRC, count_RC = _active(chunk, s.epsilon)
        counts = counts or [[0, 0] for _ in d_DRC]
        for pair, active_RC in zip(counts, active_DRC, strict=True):
            pair[0] += int((active_RC & (count_RC > 1)).sum())
            pair[1] += int((active_RC & (count_RC == 1)).sum())
    ratios = [_ratio(shared, max(unique, s.epsilon)) for shared, unique in counts]
    return tuple(1 + s.r * min(max(ratio, 0.0), s.alpha) for ratio in ratios)


def _ratio(shared: int, unique: float) -> float:
    """With an epsilon of 0 there may be no unique changes: shared ones then count without limit."""
    if unique > 0:
        return shared / unique
    return math.inf if shared else 0.0


def _ram(chunk: Chunk, s: Ram, factors: tuple[float, ...] | None) -> Tensor:
    d_DRC, active_DRC, count_RC = _active(chunk, s.epsilon)
    sum_RC = torch.zeros(chunk.shape, dtype=torch.float32, device=chunk.device)
    for d, (d_RC, active_RC) in enumerate(zip(d_DRC, active_DRC, strict=True)):
        part_RC = d_RC.mul_(active_RC)
        if factors is not None and factors[d] != 1:
            part_RC = torch.where(count_RC == 1, part_RC * factors[d], part_RC)
        sum_RC.add_(part_RC)
    return torch.add(chunk.x_MRC[0].float(), sum_RC.div_(count_RC.clamp_(min=1)))


def _native_ram(chunk: Chunk, s: Ram, factors: tuple[float, ...] | None, target: Target) -> None:
    x, out = Inputs(chunk), Output(chunk, target)
    amplified = floats(factors if factors is not None else [1.0] * (len(chunk.x_MRC) - 1))
    n, epsilon = x.elements, single(s.epsilon)
    finite = functions().ram_apply(
        x.addresses, x.kind, n, epsilon, amplified, factors is not None, out.address, out.kind
    )
    out.finish(finite)


def _fused_ram(chunk: Chunk, s: Ram, _: None, target: Target) -> None:
    launch = Launch(chunk.x_MRC, (float_bits(s.epsilon),), target.dtype)
    launch.write("selected", target, (launch.numbers,), COUNT=len(chunk.x_MRC) - 1, HOW=RAM)


ram = Kernel(_ram, reduce=_ram_reduce, native=_native_ram, fused=Fused(_fused_ram, can=lambda _, s: s.r == 0))
"""Numbers: Ram."""
