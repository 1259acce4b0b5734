"""What is tried again with fewer sequences at a time where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from evomerge.errors import CandidateError, FailureKind

__all__ = ["is_out_of_memory", "with_halved_batches"]

_T = TypeVar("_T")


def with_halved_batches(run: Callable[[int], _T], batch_size: int, what: str) -> _T:
    """What ``run`` returns with ``batch_size``, or with half of it, and so on down to single sequences.

    Raises:
        CandidateError: ``what`` does not fit into memory, even one by one.
    """
    tried: list[str] = []
    while batch_size:
        try:
            return run(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Out of the handler: the exception held the tensors of the failed pass.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tried.append(str(batch_size))
        batch_size //= 2
    raise CandidateError(
        FailureKind.OUT_OF_MEMORY,
        f"{what} does not fit into memory, even with a batch of {tried[-1]} (tried: {', '.join(tried)})",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of a GPU or of this process."""
    # Seen with torch 2.13: the allocator for CPUs, cuBLAS and cuDNN raise a plain RuntimeError.
    told = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in told)
