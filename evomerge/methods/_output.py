"""The last steps of a tensor: reduce, apply, round to the dtype of the output, digest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from evomerge.methods._chunks import Chunk, Chunks, Fused, Kernel, Target
from evomerge.methods._digest import Digest
from evomerge.methods._gpu import fits, has_kernels
from evomerge.methods._native import usable

__all__ = ["write_rows"]


def write_rows(kernel: Kernel, numbers: Any, chunks: Chunks, whole: Chunk, target: Target) -> None:
    """Writes the rows of a tensor to ``target`` and adds them to their digest.

    ``chunks`` and ``whole`` are the same inputs, cut and uncut. This is the one place that chooses what does
    the work: Triton's kernels on a GPU, compiled functions on a CPU, torch anywhere.
    """
    fused = _fused(kernel, numbers, whole, target)
    if fused is not None:
        _write_fused(fused, numbers, whole, target)
        return
    found = kernel.reduce(chunks, numbers) if kernel.reduce is not None else None
    place_RC, dtype, digest = target.place_RC, target.dtype, Digest(target.state)
    is_direct = place_RC.dtype == dtype and place_RC.device == whole.device
    for chunk in chunks():
        rows_RC = place_RC[chunk.row : chunk.row + chunk.shape[0]]
        out_RC = rows_RC if is_direct else torch.empty(chunk.shape, dtype=dtype, device=chunk.device)
        if kernel.native is not None and usable(chunk):
            if not kernel.native(chunk, numbers, found, out_RC):
                digest.state[2] = 1
        else:
            out_RC.copy_(kernel.apply(chunk, numbers, found))
            digest.add_finite(out_RC)
        digest.add(out_RC, chunk.row * chunk.shape[1])
        if not is_direct:
            rows_RC.copy_(out_RC)


def _fused(kernel: Kernel, numbers: Any, whole: Chunk, target: Target) -> Fused | None:
    """The kernel for GPUs, where it can do the whole work."""
    fused = kernel.fused
    if fused is None or not has_kernels(whole.device) or not fits(whole.x_MRC, target.dtype):
        return None
    return fused if fused.can is None or fused.can(whole, numbers) else None


def _write_fused(fused: Fused, numbers: Any, whole: Chunk, target: Target) -> None:
    found = fused.reduce(whole, numbers, target.dtype) if fused.reduce is not None else None
    if target.place_RC.device == whole.device and target.place_RC.is_contiguous():
        fused.apply(whole, numbers, found, target)
        return
    out_RC = torch.empty(whole.shape, dtype=target.dtype, device=whole.device)
    fused.apply(whole, numbers, found, replace(target, place_RC=out_RC))
    target.place_RC.copy_(out_RC)
