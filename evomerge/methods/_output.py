"""The last step of a tensor: rows in the dtype of the output, their digest, and whether all are finite."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from evomerge.methods._chunks import Chunk, Kernel
from evomerge.methods._digest import Digest
from evomerge.methods._native import usable

__all__ = ["output_rows"]


def output_rows(
    kernel: Kernel, chunk: Chunk, numbers: Any, found: Any, out_RC: Tensor, digest: Digest
) -> None:
    """Writes the output rows of a chunk to ``out_RC``, in its dtype, and adds them to ``digest``.

    This is the one place that chooses what does the work: compiled functions on a CPU, torch anywhere.
    """
    if kernel.native is not None and usable(chunk):
        digest.state[2] += not kernel.native(chunk, numbers, found, out_RC)
    else:
        out_RC.copy_(kernel.apply(chunk, numbers, found))
        digest.add_finite(out_RC)
    digest.add(out_RC, chunk.row * chunk.shape[1])
