"""Only inputs and parameters may change a bit: not chunks, not threads, not the kernel used."""

from __future__ import annotations

import pytest
import torch
from method_support import EXAMPLES, bits, inputs, merged, plan_of

from evomerge.engine.compute import ComputePool
from evomerge.kernels.cpu import calls
from evomerge.methods import methods

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


def test_every_method_has_an_example() -> None:
    assert {m.name for m in methods()} == set(EXAMPLES)


def test_numba_is_there_so_that_the_native_kernels_are_tested() -> None:
    assert calls.available()


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
                results.append(merged(plan, tensors, 1 << 16))
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
