"""The output of compiled functions: rows of a chunk, rounded and with their digest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evomerge.kernels.chunks import Chunk, Target
from evomerge.kernels.cpu import digest
from evomerge.kernels.cpu.calls import KINDS
from evomerge.kernels.reference.digest import key_table, round_rows

__all__ = ["OutputRows", "write_float32"]


class OutputRows:
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
        """Completes what the function did not do: rounding to other dtypes, finiteness, digest."""
        if not self._is_direct:
            write_float32(self._rows_RC, self._chunk, self._target)
            return
        if not finite:
            self._target.state[2] = 1
        if not (digested and self._can_digest):
            digest.add(self._target.state, self._rows_RC, self._chunk.first)


def write_float32(rows_RC: Tensor, chunk: Chunk, target: Target) -> None:
    """Writes rows that torch computed."""
    round_rows(rows_RC, target)
    digest.add(target.state, target.place_RC, chunk.first)
