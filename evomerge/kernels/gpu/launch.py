"""How Triton's kernels are started; they are in ``triton_kernels``."""

from __future__ import annotations

import contextlib
import functools
import logging
import struct
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from evomerge.kernels.chunks import Target
from evomerge.kernels.reference.digest import KEY_BLOCK

__all__ = [
    "FULL",
    "FUSION",
    "NEARSWAP",
    "RAM",
    "RANDOM",
    "TRIM",
    "Launch",
    "double_bits",
    "fits",
    "float_bits",
    "runs_on",
    "triton_kernels",
    "upload",
]

_log = logging.getLogger(__name__)

FULL, TRIM, RANDOM = 0, 1, 2
"""Kinds of masks of a masked sum."""
NEARSWAP, FUSION, RAM = 0, 1, 2
"""What ``selected`` does."""
MOST_INPUTS = 16
_KINDS = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
_WARPS = 8
_THREADS, _REGISTERS = 2048, 65536
"""Of a processor, on any GPU that is used for this."""
_FEW_INPUTS, _FEW_REGISTERS = 4, 80
"""A masked sum of so few inputs, with one cutoff at most, is limited to these registers: then three programs
share a processor, not two. ptxas 13.4 for sm_90 spills 8 bytes for it; without the limit it takes 104 to
114."""
_SPAN = 8
"""Blocks whose L1 norms make one partial sum."""


@functools.cache
def triton_kernels() -> ModuleType | None:
    """The kernels, or ``None`` where Triton is missing or too old."""
    try:
        from evomerge.kernels.gpu import triton_kernels
    except (ImportError, RuntimeError):
        return None
    return triton_kernels


@functools.cache
def runs_on(device: torch.device) -> bool:
    """Whether a small test sum is right there: Triton also needs a C compiler, and a GPU that it supports."""
    if triton_kernels() is None:
        return False
    x_RC = torch.arange(24.0, device=device).view(3, 8)
    target = Target(torch.empty_like(x_RC), torch.float32, torch.zeros(3, dtype=torch.int64, device=device))
    try:
        launch = Launch((x_RC,), (float_bits(2.0),), torch.float32)
        launch.write("weighted_sum", target, (launch.coefficients,), COUNT=1, VECTORS=0)
        return torch.equal(target.place_RC, 2 * x_RC)
    except Exception as exception:  # noqa: BLE001 (compilers, drivers and Triton raise what they like)
        reason = next(iter(str(exception).splitlines()), type(exception).__name__)
        _log.warning("Triton does not run on %s, torch is used and slower: %s", device, reason)
        return False


def _kernel(name: str) -> Any:
    module = triton_kernels()
    if module is None:
        raise RuntimeError("Triton is missing")
    return getattr(module, name)


def _triton_type(dtype: torch.dtype) -> Any:
    return getattr(_kernel("tl"), _KINDS[dtype])


def fits(x_MRC: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether kernels can merge these inputs, whole tensors, to ``dtype``."""
    kinds = {x_RC.dtype for x_RC in x_MRC}
    return (
        0 < len(x_MRC) <= MOST_INPUTS
        and len(kinds) == 1
        and kinds | {dtype} <= _KINDS.keys()
        and x_MRC[0].numel() > 0
        and x_MRC[0].shape[1] < 2**30
        and all(x_RC.is_contiguous() for x_RC in x_MRC)
    )


def float_bits(value: float) -> int:
    """The bits of ``value`` rounded to float32, as an entry of a table."""
    try:
        return int(struct.unpack("<i", struct.pack("<f", value))[0])
    except OverflowError:  # as a cast to float32 does
        return 0x7F800000 if value > 0 else 0x7F800000 - 2**31


def double_bits(value: float) -> int:
    """The bits of ``value`` as float64, as an entry of a table."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class Launch:
    """A kernel's work on whole tensors: its inputs and coefficients, and what it is compiled for.

    Kernels of several threads go to one stream, the default one of their device: none of ours sets another,
    so what one writes the next may read, and memory that torch hands out again is no longer in use. Nothing
    here waits for the device.
    """

    def __init__(self, x_MRC: Sequence[Tensor], coefficients: Sequence[int], dtype: torch.dtype) -> None:
        first_RC = x_MRC[0]
        self._alive = tuple(x_MRC)
        self.device = first_RC.device
        self.n, self.columns = first_RC.numel(), first_RC.shape[1]
        addresses = tuple(x_RC.data_ptr() for x_RC in x_MRC)
        self.addresses = upload(addresses, self.device)
        self.coefficients = upload(tuple(coefficients), self.device)
        self.block = KEY_BLOCK * 8 // dtype.itemsize
        self.blocks = -(-self.n // self.block)
        self.dtype = _triton_type(dtype)
        self.options: dict[str, Any] = {
            "KIND": _triton_type(first_RC.dtype),
            "ALIGNED": all(address % 16 == 0 for address in addresses),
            "BIG": self.n > 2**31 - 2**13,  # room for the elements of the last block
            "BLOCK": self.block,
            "num_warps": _WARPS,
            "enable_fp_fusion": False,
        }

    @property
    def long(self) -> bool:
        """Whether a row is no shorter than a block."""
        return self.columns >= self.block

    def write(self, kernel: str, target: Target, extra: Sequence[Tensor], **how: Any) -> None:
        """Runs a kernel that writes rows and adds to their digest; ``extra`` are more tensors it reads."""
        tensors = (self.addresses, self.coefficients, target.place_RC, target.state, *extra)
        how |= {"LONG": self.long, "OUT": self.dtype, "WORDS": KEY_BLOCK}
        if how.get("CUTOFFS", 2) < 2 and len(self._alive) <= _FEW_INPUTS:
            how["maxnreg"] = _FEW_REGISTERS
        self._run(kernel, None, (*tensors, self.n, self.columns), how)

    def count_equal(self, counts: Tensor) -> None:
        """Runs ``equal_counts`` to (task vectors, cutoffs, 1 + blocks), int32."""
        count, cutoffs, _ = counts.shape
        tensors = (self.addresses, self.coefficients, counts)
        self._run("equal_counts", None, (*tensors, self.n), {"COUNT": count, "CUTOFFS": cutoffs})

    def random_l1(self) -> Tensor:
        """L1 norms before and after the random masks in spans of blocks; (spans, task vectors, 2)."""
        spans, count = -(-self.blocks // _SPAN), len(self._alive) - 1
        sums = torch.empty(spans, count, 2, dtype=torch.float64, device=self.device)
        how = {"COUNT": count, "SPAN": _SPAN, "LONG": self.long}
        self._run("random_l1", spans, (self.addresses, self.coefficients, sums, self.n, self.columns), how)
        return sums

    def _run(self, name: str, programs: int | None, arguments: Sequence[Any], how: dict[str, Any]) -> None:
        """Starts ``programs``, or as many as run at once: each adds its sums only once, at its end."""
        options = {**how, **self.options}
        key = (name, *options.values())
        if programs is None:
            programs = min(self.blocks, _processors(self.device) * _at_once.get(key, 4))
        # Triton starts kernels on the current device of the thread, which a new thread has to be told.
        there = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with _starting, there:
            started = _kernel(name)[(programs,)](*arguments, **options)
        if key not in _at_once and getattr(started, "n_regs", None):
            registers = -(-started.n_regs // 8) * 8 * 32 * _WARPS
            _at_once[key] = max(1, min(_THREADS // (32 * _WARPS), _REGISTERS // registers))


_starting = threading.Lock()
"""Threads that start the same kernel for the first time would compile it twice."""
_at_once: dict[tuple[Any, ...], int] = {}
"""Programs of a compiled kernel that a processor runs at once, as its registers allow; a guess before."""


@functools.lru_cache(maxsize=1 << 14)
def upload(coefficients: tuple[int, ...], device: torch.device) -> Tensor:
    """``coefficients`` on the device, int64; equal ones are uploaded once.

    Resident inputs keep their addresses, and many tensors of a candidate have the same coefficients.
    """
    return torch.tensor(coefficients, dtype=torch.int64).to(device, non_blocking=True)


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
