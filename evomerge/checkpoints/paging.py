"""Letting go of mapped pages: a merge of large files would otherwise count all of them as its own memory."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor

__all__ = ["let_go"]

_DONTNEED = 4  # MADV_DONTNEED; on a shared file mapping it drops the mapping of pages, never their content


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
