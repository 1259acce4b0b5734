"""Fixtures for every room."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support import LLAMA, MakeModel, llama_shapes, save_model
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by Triton when it is imported: kernels run on NumPy


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Makes a tiny Llama folder: ``make_model(name, seed, dtype=..., config=..., change=...)``."""

    def make(
        name: str,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.float32,
        config: Mapping[str, Any] | None = None,
        change: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> Path:
        settings = {**LLAMA, **(config or {})}
        base = torch.Generator().manual_seed(12345)
        own = torch.Generator().manual_seed(seed)
        tensors = {}
        for tensor, shape in llama_shapes(settings).items():
            common = torch.randn(shape, generator=base) * 0.1 + (1.0 if "norm" in tensor else 0.0)
            tensors[tensor] = (common + 0.01 * torch.randn(shape, generator=own) * (seed != 0)).to(dtype)
        if change is not None:
            change(tensors)
        return save_model(tmp_path / name, tensors, {**settings, "dtype": str(dtype).removeprefix("torch.")})

    return make


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Triton's kernels have merged."""
    from evomerge.kernels import dispatch

    done: list[str] = []
    write = dispatch._write_on_gpu

    def spy(*arguments: Any) -> None:
        done.append("tensor")
        write(*arguments)

    monkeypatch.setattr(dispatch, "_write_on_gpu", spy)
    return done


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of kernels for CPUs, in turn."""
    monkeypatch.setenv("EVOMERGE_NATIVE", "1" if request.param == "native" else "0")
    return str(request.param)
