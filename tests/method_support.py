"""Merges of one tensor by every method: examples of parameters, plans, inputs ordinary and degenerate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evomerge.engine.compute import merge_tensor, rows_of
from evomerge.engine.plan import Input, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.kernels import InMemory
from evomerge.methods import Base, get_method

EXAMPLES: dict[str, dict[str, Any]] = {
    "linear": {"weight": (0.2, 0.3, 0.4)},
    "task_arithmetic": {"weight": (0.5, 0.3, -0.2)},
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": (0.4, 0.8)},
    "multislerp": {"weight": (0.3, 0.4, 0.5)},
    "karcher": {},
    "model_stock": {"filter_wise": True},
    "passthrough": {"scale": (0.7,)},
    "ties": {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 0.9)},
    "breadcrumbs": {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 0.9)},
    "breadcrumbs_ties": {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 0.9), "rescale": True},
    "dare_linear": {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 1.0)},
    "dare_ties": {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 1.0), "normalize": True, "lambda": 0.7},
    "della": {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 1.0)},
    "della_linear": {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 1.0)},
    "sce": {"select_topk": 0.4},
    "nearswap": {"t": 0.001},
    "arcee_fusion": {},
    "ram": {},
    "ramplus_tl": {"r": 0.3},
}


def plan_of(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> TensorPlan:
    method = get_method(name)
    has_base = method.base is Base.REQUIRED
    count = method.models[1] or 3
    parameters = {
        p.name: (p.default * count if p.per_model else p.default)
        for p in method.parameters.values()
        if not p.required
    }
    inputs = [Input(m, "t") for m in (["base"] if has_base else []) + [f"x{i}" for i in range(count)]]
    return TensorPlan("t", shape, dtype, name, tuple(inputs), has_base, parameters | EXAMPLES[name])


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    base = torch.randn(shape, generator=g) * 0.02
    found = {"base": base.to(dtype)}
    for i in range(3):  # many elements equal the base's, and in bfloat16 many differences are equal
        change = torch.randn(shape, generator=g) * 0.001 * (torch.rand(shape, generator=g) < 0.7)
        found[f"x{i}"] = (base + change).to(dtype)
    return found


def merged(plan: TensorPlan, tensors: dict[str, Tensor], chunk_elements: int) -> Tensor:
    out = torch.empty(plan.shape, dtype=plan.dtype)
    place = InMemory(rows_of(out))
    merge_tensor(plan, lambda model, _: tensors[model], Statistics(), place, chunk_elements=chunk_elements)
    return out


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int16 if tensor.dtype.itemsize == 2 else torch.int32)


def degenerate_inputs(
    kind: str, base_kind: str, shape: tuple[int, ...], size: float, count: int
) -> list[Tensor]:
    """Base and models, float32, with task vectors of about ``size``."""
    g = torch.Generator().manual_seed(len(shape) * 31 + count)
    d = [torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(count)]
    if kind == "zero":
        d = [v * 0 for v in d]
    if kind == "one zero":
        d[-1] = d[-1] * 0
    if kind in ("equal", "opposite", "parallel"):
        factor = {"equal": 1.0, "opposite": -1.0, "parallel": 2.0}[kind]
        changed = slice(1, 2) if kind == "opposite" else slice(1, None)
        d[changed] = [d[0] * factor for _ in d[changed]]
    if kind.startswith("nearly") and count > 1:
        d[1] = d[0] * (1 if kind == "nearly parallel" else -1) + 1e-3 * d[1]
    if kind == "zero row" and len(shape) > 1:
        d = [torch.cat([v[:1] * 0, v[1:]]) for v in d]
    if kind == "zero column" and shape:
        d = [v * (torch.arange(shape[-1]) > 0) for v in d]
    scale = max(1.0, size) if size >= 1e-10 else size
    base = {"ones": torch.ones(shape), "zero": torch.zeros(shape), "random": torch.randn(shape, generator=g)}
    start = base[base_kind].double() * scale
    return [start.float(), *((start.float().double() + v * size).float() for v in d)]
