"""The digest on a CPU."""

from __future__ import annotations

from torch import Tensor

from evomerge.kernels.cpu.calls import functions
from evomerge.kernels.reference.digest import align, key_table

__all__ = ["add"]


def add(state: Tensor, rows_RC: Tensor, first: int) -> None:
    """See the reference."""
    if rows_RC.numel():
        flat = align(rows_RC)
        word = first * flat.dtype.itemsize // 8
        functions().digest(flat.data_ptr(), flat.nbytes, word, key_table(), state.numpy())
