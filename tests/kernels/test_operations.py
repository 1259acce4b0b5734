"""The table of operations, and the one place that chooses among their implementations."""

from __future__ import annotations

import sys

import pytest
import torch
from method_support import EXAMPLES, bits, inputs, merged, plan_of

from evomerge.kernels import KERNELS, MEASURES, InputMeasure, cpu, take_measure
from evomerge.kernels.chunks import Chunk
from evomerge.kernels.cpu import calls
from evomerge.methods import get_method


def test_every_method_of_ours_is_made_of_operations_of_the_table() -> None:
    kernels, measures = set(), set()
    for name in EXAMPLES:
        method = get_method(name)
        kernels.add(method.kernel.name)
        assert method.kernel in KERNELS, name
        plan = plan_of(name, (4, 4), torch.float32)
        # nuslerp and model stock take another measure by their parameters, the sparsifiers none at density 1.
        for changes in ({}, {"nuslerp_flatten": False, "filter_wise": False}, {"nuslerp_row_wise": True}):
            plan.parameters.update(changes)
            measure = method.measure(plan.parameters)
            measures.add(measure.name)
            assert measure in MEASURES, name
    assert kernels == {kernel.name for kernel in KERNELS}
    assert measures == {measure.name for measure in MEASURES}


def test_no_two_operations_have_one_name() -> None:
    names = [operation.name for operation in (*KERNELS, *MEASURES)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["ties", "linear", "ram"])
def test_where_numba_is_missing_torch_gives_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, tensors = plan_of(name, (17, 33), torch.bfloat16), inputs((17, 33), torch.bfloat16)
    expected = merged(plan, tensors, 1 << 16)
    monkeypatch.delattr(cpu, "compiled")
    monkeypatch.setitem(sys.modules, "evomerge.kernels.cpu.compiled", None)
    calls.available.cache_clear()
    calls.functions.cache_clear()
    try:
        assert not calls.available()
        assert torch.equal(bits(merged(plan, tensors, 1 << 16)), bits(expected))
    finally:
        calls.available.cache_clear()
        calls.functions.cache_clear()


@pytest.mark.parametrize("measure", [m for m in MEASURES if m.cpu is not None], ids=lambda m: m.name)
def test_a_measure_on_a_cpu_finds_what_the_reference_finds(
    measure: InputMeasure, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for setting in ("1", "0"):
        monkeypatch.setenv("EVOMERGE_NATIVE", setting)
        count = 2 if measure.name == "importance" else 4
        x_MRC = tuple(inputs((40, 33), torch.bfloat16).values())[:count]
        whole = Chunk(x_MRC, 0, has_base=True)
        found.append(take_measure(measure, lambda whole=whole: iter([whole])))
    native, reference = found
    if isinstance(native, torch.Tensor):
        torch.testing.assert_close(native, reference, rtol=1e-12, atol=0)
    elif measure.name == "importance":
        torch.testing.assert_close(native.divergence_R, reference.divergence_R, rtol=1e-6, atol=1e-12)
        assert native.threshold == pytest.approx(reference.threshold, rel=1e-6)
    else:
        pairs = (
            zip(native, reference, strict=True)
            if measure.name == "magnitudes"
            else [(native.histogram, reference.histogram)]
        )
        for one, two in pairs:
            assert torch.equal(one.bins, two.bins)
            assert torch.equal(one.counts, two.counts)
            assert torch.equal(one.lows, two.lows)
