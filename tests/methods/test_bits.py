"""Only inputs and parameters may change a bit: not chunks, not threads, not the kernel used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.engine.compute import ComputePool, merge_tensor, rows_of
from evomerge.engine.plan import Input, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.methods import Base, InMemory, _native, get_method, methods

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
SHAPES = [(70, 33), (1000,), (17, 2050), (64, 1), (1, 5), (3, 20, 7)]
# Sums in float64 go in another order in torch: their last bit may differ, and with it a rounding.
SUMMED = {
    "slerp",
    "nuslerp",
    "multislerp",
    "karcher",
    "model_stock",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "sce",
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


def test_every_method_has_an_example() -> None:
    assert {m.name for m in methods()} == set(EXAMPLES)


def test_numba_is_there_so_that_the_native_kernels_are_tested() -> None:
    assert _native.compiled() is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_chunks_cannot_change_a_bit(name: str, dtype: torch.dtype, kernels: str) -> None:
    for shape in SHAPES:
        plan, tensors = plan_of(name, shape, torch.float32), inputs(shape, dtype)
        whole = merged(plan, tensors, 1 << 16)
        for chunk_elements in (1, 700, 5000):
            assert torch.equal(bits(whole), bits(merged(plan, tensors, chunk_elements))), (
                shape,
                chunk_elements,
            )


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_compiled_kernels_give_the_bits_of_torch(
    name: str, out: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shape in SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            plan, tensors = plan_of(name, shape, out), inputs(shape, dtype)
            results = []
            for switch in ("1", "0"):
                monkeypatch.setenv("EVOMERGE_NATIVE", switch)
                _native.compiled.cache_clear()
                results.append(merged(plan, tensors, 1 << 16))
            _native.compiled.cache_clear()
            native, plain = results
            if name in SUMMED:
                torch.testing.assert_close(
                    native, plain, rtol=1e-2 if out is torch.bfloat16 else 1e-3, atol=1e-7
                )
                differing = float((bits(native) != bits(plain)).float().mean())
                assert differing < 0.02, (shape, dtype, differing)
            else:
                assert torch.equal(bits(native), bits(plain)), (shape, dtype)


@pytest.mark.parametrize("name", ["linear", "karcher", "ties", "dare_ties", "della", "sce"])
def test_threads_cannot_change_a_bit(name: str, kernels: str) -> None:
    shapes = [(400, 257), (90_000,)]
    results = []
    before = torch.get_num_threads()
    for threads, callers in ((1, 1), (2, 2)):
        torch.set_num_threads(callers)
        pool = ComputePool(threads)
        jobs = [(plan_of(name, s, torch.float32), inputs(s, torch.bfloat16)) for s in shapes]
        results.append(pool.map(lambda job: merged(*job, 1 << 14), jobs))
        pool.close()
    torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(bits(one), bits(two))
