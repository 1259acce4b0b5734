"""Hints to the kernel about mapped pages: to release them, and to start writing them to disk."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys

from torch import Tensor

__all__ = ["release", "start_writing"]

_DONTNEED = 4  # MADV_DONTNEED; on a shared file mapping it drops the mapping of pages, never their content
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, do not wait


def start_writing(descriptor: int, offset: int, size: int) -> None:
    """Begins to write a range of a file to disk, so that a later flush finds little left to do: a hint."""
    sync = getattr(_libc(), "sync_file_range", None)
    if sync is not None:
        sync(ctypes.c_int(descriptor), ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(_WRITE))


def _rows_in_bytes(tensor: Tensor, first: int, end: int | None) -> tuple[int, int]:
    """Where rows ``first`` to ``end`` of a contiguous tensor begin and end, from its own beginning."""
    size = tensor.numel() * tensor.element_size()
    width = size if tensor.dim() < 2 else tensor.shape[-1] * tensor.element_size()
    return min(first * width, size), size if end is None else min(end * width, size)


def release(tensor: Tensor, first: int = 0, end: int | None = None) -> None:
    """Unmaps the whole pages of rows of a tensor that lies in a mapped file; reading brings them back.

    Must not be called for a tensor in ordinary memory, whose content would be lost.
    """
    if not sys.platform.startswith("linux"):
        return
    page = mmap.PAGESIZE
    begin, stop = _rows_in_bytes(tensor, first, end)
    start = -(-(tensor.data_ptr() + begin) // page) * page
    size = (tensor.data_ptr() + stop) // page * page - start
    if size > 0:
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(_DONTNEED))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
