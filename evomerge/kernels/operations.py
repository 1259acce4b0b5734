"""The table of operations: what merge methods are made of, and the implementations of each.

A *measure* reads the inputs of a tensor once per study; its result depends on no searched parameter. A
*kernel* computes the weights of one tensor for one candidate from the candidate's coefficients. Each is
defined in torch (``reference``); some also have an implementation for CPUs in numba (``cpu``) and for GPUs in
Triton (``gpu``), which give the same bits. ``dispatch`` chooses; shape letters are those of ``chunks``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.kernels import cpu, gpu, reference
from evomerge.kernels.chunks import Chunk, Chunks, Target

__all__ = [
    "KERNELS",
    "MEASURES",
    "CpuKernel",
    "GpuKernel",
    "InputMeasure",
    "Kernel",
    "ReferenceKernel",
    "arcee_fusion",
    "column_grams",
    "gram",
    "importance",
    "magnitudes",
    "masked_sum",
    "nearswap",
    "nothing",
    "ram",
    "row_grams",
    "sce",
    "task_gram",
    "variances",
    "vector_weighted_sum",
    "weighted_sum",
]


@dataclass(frozen=True)
class InputMeasure:
    """A statistic of the inputs that no searched parameter changes; each implementation reads all chunks."""

    name: str
    reference: Callable[[Chunks], Any]
    cpu: Callable[[Chunks], Any] | None = None
    gpu: Callable[[Chunks], Any] | None = None


@dataclass(frozen=True)
class ReferenceKernel:
    """``apply`` computes float32 rows, (R, C), from a chunk, the coefficients and the result of ``reduce``.

    ``reduce`` is an optional pass over all chunks before it; it returns None where no pass is needed.
    """

    apply: Callable[[Chunk, Any, Any], Tensor]
    reduce: Callable[[Chunks, Any], Any] | None = None


@dataclass(frozen=True)
class CpuKernel:
    """As the reference; ``apply`` also rounds the rows of the chunk, writes them and takes their digest."""

    apply: Callable[[Chunk, Any, Any, Target], None]
    reduce: Callable[[Chunks, Any], Any] | None = None


@dataclass(frozen=True)
class GpuKernel:
    """As that for CPUs, but on a whole tensor, which is one chunk; nothing in it waits for the device.

    ``can`` says whether it supports these coefficients (without it, all); ``reduce`` also gets the dtype of
    the output.
    """

    apply: Callable[[Chunk, Any, Any, Target], None]
    reduce: Callable[[Chunk, Any, torch.dtype], Any] | None = None
    can: Callable[[Chunk, Any], bool] | None = None


@dataclass(frozen=True)
class Kernel:
    """What happens to the weights of one tensor for one candidate."""

    name: str
    reference: ReferenceKernel
    cpu: CpuKernel | None = None
    gpu: GpuKernel | None = None


# --------------------------------------------------------------------------- measures

nothing = InputMeasure("nothing", lambda _: None)
"""For methods whose coefficients follow from the parameters alone; no input is read."""

gram = InputMeasure("gram", reference.linear_combinations.gram, cpu=cpu.linear_combinations.gram)
"""Gram matrix of the inputs taken as vectors; (M, M), float64."""

task_gram = InputMeasure(
    "task_gram", reference.linear_combinations.task_gram, cpu=cpu.linear_combinations.task_gram
)
"""The same of base and task vectors, subtracted before they are multiplied; without a base, ``gram``."""

row_grams = InputMeasure("row_grams", reference.linear_combinations.row_grams)
"""Gram matrix of base and task vectors (of the inputs, without a base) for each row; ``VectorGrams``."""

column_grams = InputMeasure("column_grams", reference.linear_combinations.column_grams)
"""The same for each column: along the first dimension, however many there are; ``VectorGrams``."""

magnitudes = InputMeasure(
    "magnitudes",
    reference.masked_sum.magnitudes,
    cpu=cpu.masked_sum.magnitudes,
    gpu=gpu.masked_sum.magnitudes,
)
"""One ``Histogram`` of the magnitudes of each task vector; a tuple of D."""

variances = InputMeasure("variances", reference.sce.variances, cpu=cpu.sce.variances)
"""Histogram of the variance over the task vectors, position by position; ``Variances``."""

importance = InputMeasure("importance", reference.arcee_fusion.importance, cpu=cpu.arcee_fusion.importance)
"""Divergence of each row and the importance from which on a change counts; ``Importance``."""

MEASURES = (nothing, gram, task_gram, row_grams, column_grams, magnitudes, variances, importance)

# --------------------------------------------------------------------------- kernels

weighted_sum = Kernel(
    "weighted_sum",
    ReferenceKernel(reference.linear_combinations.weighted_sum),
    CpuKernel(cpu.linear_combinations.weighted_sum),
    GpuKernel(gpu.linear_combinations.weighted_sum, can=gpu.linear_combinations.can_weighted_sum),
)
"""Sum of the inputs times their coefficients. Coefficients: c_M, one for each input, float64."""

vector_weighted_sum = Kernel(
    "vector_weighted_sum",
    ReferenceKernel(reference.linear_combinations.vector_weighted_sum),
    CpuKernel(cpu.linear_combinations.vector_weighted_sum),
    GpuKernel(
        gpu.linear_combinations.vector_weighted_sum, can=gpu.linear_combinations.can_vector_weighted_sum
    ),
)
"""The same with coefficients for each row or column: ``VectorCoefficients``. Where there is one set, it is
used for the whole tensor."""

masked_sum = Kernel(
    "masked_sum",
    ReferenceKernel(reference.masked_sum.apply, reference.masked_sum.reduce),
    CpuKernel(cpu.masked_sum.apply, cpu.masked_sum.reduce),
    GpuKernel(gpu.masked_sum.apply, gpu.masked_sum.reduce, gpu.masked_sum.can),
)
"""The base plus masked task vectors, with an election of signs if asked for. Coefficients: ``MaskedSum``."""

sce = Kernel(
    "sce",
    ReferenceKernel(reference.sce.apply, reference.sce.reduce),
    CpuKernel(cpu.sce.apply, cpu.sce.reduce),
)
"""The base plus what task vectors agree on where they vary most. Coefficients: ``VarianceCutoff``."""

nearswap = Kernel(
    "nearswap",
    ReferenceKernel(reference.nearswap.apply),
    CpuKernel(cpu.nearswap.apply),
    GpuKernel(gpu.nearswap.apply),
)
"""The base, moved towards the other model by t at most, element by element. Coefficients: t."""

arcee_fusion = Kernel(
    "arcee_fusion",
    ReferenceKernel(reference.arcee_fusion.apply),
    CpuKernel(cpu.arcee_fusion.apply),
    GpuKernel(gpu.arcee_fusion.apply),
)
"""The base, with the other model's change where it is important. Coefficients: ``Importance``."""

ram = Kernel(
    "ram",
    ReferenceKernel(reference.ram.apply, reference.ram.reduce),
    CpuKernel(cpu.ram.apply, cpu.ram.reduce),
    GpuKernel(gpu.ram.apply, can=gpu.ram.can),
)
"""The base plus changes of one model alone, and the mean of shared ones. Coefficients: ``Ram``."""

KERNELS = (weighted_sum, vector_weighted_sum, masked_sum, sce, nearswap, arcee_fusion, ram)
