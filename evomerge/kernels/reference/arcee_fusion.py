"""Arcee fusion: take the changes that are important, by their size and the divergence of their row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks, magnitude_bits, task_vectors
from evomerge.kernels.reference.ranks import Cutoff, Finder, Histogram, histograms

__all__ = ["Importance", "apply", "importance", "outlier_threshold", "quartiles"]


@dataclass(frozen=True)
class Importance:
    """The divergence of each row of the other model from the base's, and the threshold of importance.

    ``divergence_R`` is in nats, float64, on the CPU.
    """

    divergence_R: Tensor
    threshold: float


def importance(chunks: Chunks) -> Importance:
    """Three reads: the divergence of each row, the histogram of the importance, its quartiles."""
    divergence_R = torch.cat([_divergence(chunk) for chunk in chunks()])

    def bits(chunk: Chunk) -> Tensor:
        return magnitude_bits(_importance_of(chunk, divergence_R[chunk.row : chunk.row + chunk.shape[0]]))

    (histogram,) = histograms(chunks, lambda chunk: (bits(chunk),))
    finder = Finder(quartiles(histogram))
    for chunk in chunks():
        finder.add(bits(chunk), chunk.first)
    return Importance(divergence_R.cpu(), outlier_threshold(finder))


def _divergence(chunk: Chunk) -> Tensor:
    """KL divergence of softmax(other) from softmax(base) per row, in float64; (R,).

    Blocks of rows go through one by one: an exponential may round differently at another place of a vector.
    """
    parts = []
    for row in range(0, chunk.shape[0], ROW_BLOCK):
        base_RC, other_RC = (x_RC[row : row + ROW_BLOCK].double() for x_RC in chunk.x_MRC)
        p_RC = torch.softmax(other_RC, dim=1) + 1e-8
        q_RC = torch.softmax(base_RC, dim=1) + 1e-8
        parts.append((p_RC * torch.log(p_RC / q_RC)).sum(dim=1))
    return torch.cat(parts)


def _importance_of(chunk: Chunk, divergence_R: Tensor) -> Tensor:
    """The size of each change times the divergence of its row; (R, C), float32."""
    (d_RC,) = task_vectors(chunk)
    # The divergence is not negative but for its rounding; importance is ranked by magnitude.
    return d_RC.abs_().mul_(divergence_R.to(chunk.device, torch.float32)[:, None].abs())


def quartiles(histogram: Histogram) -> tuple[Cutoff, ...]:
    """The cutoffs at the first quartile, the median and the third quartile."""
    last = histogram.elements - 1
    # The value at place k of the ascending order is the one that ends the ranks 1 ... n - k from the top.
    return tuple(histogram.cutoff(histogram.elements - int(q * last)) for q in (0.25, 0.5, 0.75))


def outlier_threshold(finder: Finder) -> float:
    """Median + 1.5 times the interquartile range, from the finder of the ``quartiles``."""
    q1, median, q3 = (finder.find(cutoff)[0].value for cutoff in finder.cutoffs)
    return median + 1.5 * (q3 - q1)


def apply(chunk: Chunk, s: Importance, _: None) -> Tensor:
    """The base, with the task vector added where it is important; (R, C), float32."""
    rows = s.divergence_R[chunk.row : chunk.row + chunk.shape[0]]
    (d_RC,) = task_vectors(chunk)
    return torch.add(chunk.x_MRC[0].float(), d_RC.mul_(_importance_of(chunk, rows) >= s.threshold))
