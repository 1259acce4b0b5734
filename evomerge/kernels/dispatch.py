"""The last steps of a tensor: reduce, apply, round to the dtype of the output, digest, put in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Chunks, Fused, Kernel, Target
from evomerge.kernels.cpu.calls import KINDS, usable
from evomerge.kernels.digest import Digest, key_table
from evomerge.kernels.gpu.launch import fits, has_kernels

__all__ = ["Destination", "InMemory", "Output", "Sink", "write_plainly", "write_rows"]


class Destination(Protocol):
    """Where one output tensor goes, as rows in the output dtype."""

    def place(self, device: torch.device) -> Tensor | None:
        """All rows, contiguous and on ``device``, of whatever dtype; ``None`` where no tensor holds them."""
        ...

    def room(self, row: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of ``dtype`` to compute the rows from ``row`` on in; with shape and device of ``like``."""
        ...

    def put(self, row: int, rows: Tensor) -> None:
        """Those rows are computed; ``rows`` may be what ``room`` gave, which is then free again."""
        ...


class InMemory:
    """A tensor in memory, (R, C); of another dtype (what a live model calculates in) or device if need be."""

    def __init__(self, place_RC: Tensor) -> None:
        self._place_RC = place_RC

    def place(self, device: torch.device) -> Tensor | None:
        """The tensor itself, if it lies there."""
        is_there = self._place_RC.device == device and self._place_RC.is_contiguous()
        return self._place_RC if is_there else None

    def room(self, row: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """The place itself where it has that dtype and device."""
        if self._place_RC.dtype == dtype and self._place_RC.device == like.device:
            return self._rows(row, like)
        return torch.empty(like.shape, dtype=dtype, device=like.device)

    def put(self, row: int, rows: Tensor) -> None:
        """Copies what was not computed in place."""
        place_RC = self._rows(row, rows)
        if place_RC.data_ptr() != rows.data_ptr():
            place_RC.copy_(rows)

    def _rows(self, row: int, like: Tensor) -> Tensor:
        return self._place_RC[row : row + like.shape[0]]


@dataclass(frozen=True)
class Sink:
    """What takes the rows of a tensor: they are rounded to ``dtype``, added to ``digest`` and put away."""

    destination: Destination
    dtype: torch.dtype
    digest: Digest


def write_rows(kernel: Kernel, numbers: Any, chunks: Chunks, whole: Chunk, sink: Sink) -> None:
    """Writes the rows of a tensor to ``sink``.

    ``chunks`` and ``whole`` are the same inputs, cut and uncut. This is the one place that chooses what does
    the work: Triton's kernels on a GPU, compiled functions on a CPU, torch anywhere.
    """
    fused = _fused(kernel, numbers, whole, sink)
    if fused is not None:
        _write_fused(fused, numbers, whole, sink)
        return
    found = kernel.reduce(chunks, numbers) if kernel.reduce is not None else None
    for chunk in chunks():
        out_RC = sink.destination.room(chunk.row, chunk.x_MRC[0], sink.dtype)
        target = Target(out_RC, sink.dtype, sink.digest.state)
        if kernel.native is not None and usable(chunk):
            kernel.native(chunk, numbers, found, target)
        else:
            write_plainly(kernel.apply(chunk, numbers, found), chunk, target)
        sink.destination.put(chunk.row, out_RC)


def write_plainly(rows_RC: Tensor, chunk: Chunk, target: Target) -> None:
    """Writes the float32 rows of a chunk with torch's operations."""
    target.place_RC.copy_(rows_RC)
    digest = Digest(target.state)
    digest.add_finite(target.place_RC)
    digest.add(target.place_RC, chunk.first)


class Output:
    """Rows of a chunk for compiled functions: those of ``target``, where they know its dtype."""

    def __init__(self, chunk: Chunk, target: Target) -> None:
        out_RC = target.place_RC
        self._chunk, self._target = chunk, target
        self._is_direct = out_RC.dtype in KINDS and out_RC.is_contiguous()
        self._rows_RC = out_RC if self._is_direct else torch.empty(out_RC.shape, dtype=torch.float32)
        self.address = self._rows_RC.data_ptr()
        self.kind = KINDS[self._rows_RC.dtype]
        self._can_digest = self._is_direct and self.address % 8 == 0

    @property
    def digest(self) -> tuple[Any, int, Any]:
        """Arguments of functions that digest while they write; with an empty state they do not."""
        state = self._target.state.numpy()
        word = self._chunk.first * self._rows_RC.dtype.itemsize // 8
        return state if self._can_digest else state[:0], word, key_table()

    def finish(self, finite: bool, *, digested: bool = False) -> None:
        """Does what the function has not done: rounding to a dtype it does not know, finiteness, digest."""
        if not self._is_direct:
            write_plainly(self._rows_RC, self._chunk, self._target)
            return
        if not finite:
            self._target.state[2] = 1
        if not (digested and self._can_digest):
            Digest(self._target.state).add(self._rows_RC, self._chunk.first)


def _fused(kernel: Kernel, numbers: Any, whole: Chunk, sink: Sink) -> Fused | None:
    """The kernel for GPUs, where it can do the whole work."""
    fused = kernel.fused
    if fused is None or not has_kernels(whole.device) or not fits(whole.x_MRC, sink.dtype):
        return None
    return fused if fused.can is None or fused.can(whole, numbers) else None


def _write_fused(fused: Fused, numbers: Any, whole: Chunk, sink: Sink) -> None:
    found = fused.reduce(whole, numbers, sink.dtype) if fused.reduce is not None else None
    place_RC = sink.destination.place(whole.device)
    if place_RC is not None:
        fused.apply(whole, numbers, found, Target(place_RC, sink.dtype, sink.digest.state))
        return
    out_RC = torch.empty(whole.shape, dtype=sink.dtype, device=whole.device)
    fused.apply(whole, numbers, found, Target(out_RC, sink.dtype, sink.digest.state))
    sink.destination.put(0, out_RC)
