"""Chooses the implementation of an operation: Triton on a GPU, numba on a CPU, torch anywhere."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from evomerge.kernels import cpu, gpu, reference
from evomerge.kernels.chunks import Chunk, Chunks, Target
from evomerge.kernels.destinations import Sink
from evomerge.kernels.operations import CpuKernel, GpuKernel, InputMeasure, Kernel, ReferenceKernel

__all__ = ["add_to_digest", "chunk_elements", "take_measure", "uses_numba", "uses_triton", "write_rows"]

_CHUNK_ELEMENTS = {"numba": 1 << 20, "cpu": 1 << 16, "other": 1 << 24}
"""Elements of a chunk. Compiled functions have tiles of their own, and each call costs some 40 us; with
torch on a CPU intermediate values should stay in a core's cache; a GPU wants enough to do."""


def _setting() -> str:
    """What ``EVOMERGE_NATIVE`` says: 1 (the default), 0 for torch alone, triton for Triton on any device."""
    return os.environ.get("EVOMERGE_NATIVE", "1")


def uses_numba(device: torch.device) -> bool:
    """Whether the implementations for CPUs work on tensors of ``device``."""
    return device.type == "cpu" and _setting() == "1" and cpu.calls.available()


def uses_triton(device: torch.device) -> bool:
    """Whether the implementations for GPUs work on tensors of ``device``.

    With ``EVOMERGE_NATIVE=triton`` they work on a CPU too, in Triton's interpreter (``TRITON_INTERPRET=1``),
    as tests want it.
    """
    how = _setting()
    if how != "triton" and (how == "0" or device.type != "cuda" or torch.version.cuda is None):
        return False
    return gpu.launch.runs_on(device)


def chunk_elements(device: torch.device) -> int:
    """Elements of a chunk that suit the implementation for ``device``."""
    if device.type != "cpu":
        return _CHUNK_ELEMENTS["other"]
    return _CHUNK_ELEMENTS["numba" if uses_numba(device) else "cpu"]


def take_measure(measure: InputMeasure, chunks: Chunks) -> Any:
    """The statistic ``measure`` of the inputs whose ``chunks`` are given."""
    device = next(chunks()).device
    if measure.gpu is not None and uses_triton(device):
        return measure.gpu(chunks)
    if measure.cpu is not None and uses_numba(device):
        return measure.cpu(chunks)
    return measure.reference(chunks)


def write_rows(kernel: Kernel, coefficients: Any, chunks: Chunks, whole: Chunk, sink: Sink) -> None:
    """Writes a tensor to ``sink``; ``chunks`` and ``whole`` are its inputs, in chunks and as one."""
    on_gpu = _gpu_kernel(kernel, coefficients, whole, sink)
    if on_gpu is not None:
        _write_on_gpu(on_gpu, coefficients, whole, sink)
    elif kernel.cpu is not None and uses_numba(whole.device):
        _write_chunks(kernel.cpu, coefficients, chunks, sink)
    else:
        _write_chunks(_writing(kernel.reference), coefficients, chunks, sink)


def add_to_digest(state: Tensor, rows_RC: Tensor, first: int) -> None:
    """Adds rows to the ``state`` of a digest; see ``Digest.add``."""
    (cpu if uses_numba(rows_RC.device) else reference).digest.add(state, rows_RC, first)


def _write_chunks(kernel: CpuKernel, coefficients: Any, chunks: Chunks, sink: Sink) -> None:
    reduction = kernel.reduce(chunks, coefficients) if kernel.reduce is not None else None
    for chunk in chunks():
        out_RC = sink.destination.room(chunk.row, chunk.x_MRC[0], sink.dtype)
        kernel.apply(chunk, coefficients, reduction, Target(out_RC, sink.dtype, sink.state))
        sink.destination.put(chunk.row, out_RC)


def _writing(kernel: ReferenceKernel) -> CpuKernel:
    """The reference with the last steps: rounding and the digest."""

    def apply(chunk: Chunk, coefficients: Any, reduction: Any, target: Target) -> None:
        reference.digest.round_rows(kernel.apply(chunk, coefficients, reduction), target)
        reference.digest.add(target.state, target.place_RC, chunk.first)

    return CpuKernel(apply, kernel.reduce)


def _gpu_kernel(kernel: Kernel, coefficients: Any, whole: Chunk, sink: Sink) -> GpuKernel | None:
    """The implementation for GPUs, where it can do the whole work."""
    on_gpu = kernel.gpu
    if on_gpu is None or not uses_triton(whole.device) or not gpu.launch.fits(whole.x_MRC, sink.dtype):
        return None
    return on_gpu if on_gpu.can is None or on_gpu.can(whole, coefficients) else None


def _write_on_gpu(kernel: GpuKernel, coefficients: Any, whole: Chunk, sink: Sink) -> None:
    reduction = kernel.reduce(whole, coefficients, sink.dtype) if kernel.reduce is not None else None
    place_RC = sink.destination.place(whole.device)
    if place_RC is not None:
        kernel.apply(whole, coefficients, reduction, Target(place_RC, sink.dtype, sink.state))
        return
    out_RC = torch.empty(whole.shape, dtype=sink.dtype, device=whole.device)
    kernel.apply(whole, coefficients, reduction, Target(out_RC, sink.dtype, sink.state))
    sink.destination.put(0, out_RC)
