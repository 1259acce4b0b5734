"""RAM: keep the changes of one model alone, average those that several models share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Chunks, task_vectors

__all__ = ["Ram", "amplifications", "apply", "reduce"]


@dataclass(frozen=True)
class Ram:
    """The coefficients of RAM: which changes are active, and how unique ones are amplified (r = 0: not)."""

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


def reduce(chunks: Chunks, s: Ram) -> tuple[float, ...] | None:
    """One read: per model, the factor of its unique changes; see ``amplifications``."""
    if s.r == 0:
        return None
    counts: list[list[int]] = []
    for chunk in chunks():
        d_DRC, active_DRC, count_RC = _active(chunk, s.epsilon)
        counts = counts or [[0, 0] for _ in d_DRC]
        for pair, active_RC in zip(counts, active_DRC, strict=True):
            pair[0] += int((active_RC & (count_RC > 1)).sum())
            pair[1] += int((active_RC & (count_RC == 1)).sum())
    return amplifications(counts, s)


def amplifications(counts: Sequence[Sequence[int]], s: Ram) -> tuple[float, ...]:
    """1 + r * clip(shared / unique, 0, alpha) per model; ``counts`` are (shared, unique) changes of each."""
    ratios = [_ratio(shared, max(unique, s.epsilon)) for shared, unique in counts]
    return tuple(1 + s.r * min(max(ratio, 0.0), s.alpha) for ratio in ratios)


def _ratio(shared: int, unique: float) -> float:
    """Where there are no unique changes (an epsilon of 0) the ratio is infinite."""
    if unique > 0:
        return shared / unique
    return math.inf if shared else 0.0


def apply(chunk: Chunk, s: Ram, factors: tuple[float, ...] | None) -> Tensor:
    """Base plus the mean of the active changes of each element; (R, C), float32."""
    d_DRC, active_DRC, count_RC = _active(chunk, s.epsilon)
    sum_RC = torch.zeros(chunk.shape, dtype=torch.float32, device=chunk.device)
    for d, (d_RC, active_RC) in enumerate(zip(d_DRC, active_DRC, strict=True)):
        part_RC = d_RC.mul_(active_RC)
        if factors is not None and factors[d] != 1:
            part_RC = torch.where(count_RC == 1, part_RC * factors[d], part_RC)
        sum_RC.add_(part_RC)
    return torch.add(chunk.x_MRC[0].float(), sum_RC.div_(count_RC.clamp_(min=1)))
