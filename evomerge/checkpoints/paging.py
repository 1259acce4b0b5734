"""What the kernel is told about mapped pages: to let go of them, and to start writing them to disk."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor

__all__ = ["let_go", "start_writing"]

_DONTNEED = 4  # MADV_DONTNEED; on a shared file mapping it drops the mapping of pages, never their content


_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, do not wait


def start_writing(descriptor: int, offset: int, size: int) -> None:
    """Begins to write a range of a file to disk, so that a later flush finds little left to do: a hint."""
    sync = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if sync is not None:
        sync(ctypes.c_int(descriptor), ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(_WRITE))


def let_go(tensor: Tensor) -> None:
    """Unmaps the whole pages of a tensor that lies in a mapped file; they come back when they are read again.

    Must not be called for a tensor in ordinary memory, whose content would be lost.
    """
    if not sys.platform.startswith("linux"):
        return
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // page * page
    if end > start:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(_DONTNEED))
