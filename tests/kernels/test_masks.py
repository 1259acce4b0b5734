"""Masks: exact ranks against a sort, random masks against their statistics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_support import merged, plan_of
from torch import Tensor

from evomerge.engine.plan import Input, TensorPlan
from evomerge.kernels.reference.random_masks import keep, key_of, random_bits

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 3.0, 1e-40, -1e-40, 1.0000001])


def kept_by_sort(d: Tensor, first: int, last: int) -> Tensor:
    """Elements from rank ``first`` to ``last`` by magnitude; equal ones rank by index, lowest first."""
    order = sorted(range(d.numel()), key=lambda i: (-abs(float(d[i])), i))
    mask = torch.zeros(d.numel(), dtype=torch.bool)
    mask[order[first:last]] = True
    return mask


def one_model(method: str, d: Tensor, **parameters: object) -> Tensor:
    """The merge of a zero base and one model with task vector ``d``, as a vector."""
    plan = plan_of(method, tuple(d.shape), torch.float32)
    bound = {k: (v[:1] if isinstance(v, tuple) else v) for k, v in plan.parameters.items()} | parameters
    inputs = (Input("b", "t"), Input("x", "t"))
    plan = TensorPlan("t", tuple(d.shape), torch.float32, method, inputs, has_base=True, parameters=bound)
    return merged(plan, {"b": torch.zeros_like(d), "x": d}, 16)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=60), density=st.floats(0, 0.999))
def test_ties_keeps_exactly_the_largest_and_of_equals_the_first(values: list[float], density: float) -> None:
    d = torch.tensor(values)
    out = one_model("ties", d, weight=(1.0,), density=(density,), normalize=False, rescale=False)
    kept = max(1, int(density * len(values))) if density > 0 else 0
    expected = torch.where(kept_by_sort(d, 0, kept), d, torch.zeros(()))
    assert torch.equal(out, expected)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=60), density=st.floats(0, 0.999), gamma=st.floats(0, 1))
def test_breadcrumbs_drops_both_ends(values: list[float], density: float, gamma: float) -> None:
    d, n = torch.tensor(values), len(values)
    top, kept = int(gamma * n), int(density * n)
    bottom = n - kept - top
    if bottom < 0:
        top, bottom = top + bottom, 0
    out = one_model("breadcrumbs", d, weight=(1.0,), density=(density,), gamma=(gamma,), rescale=False)
    assert torch.equal(out, torch.where(kept_by_sort(d, top, n - bottom), d, torch.zeros(())))


@pytest.mark.parametrize("method", ["ties", "dare_linear", "della_linear", "breadcrumbs"])
def test_rescale_gives_the_l1_norm_back(method: str) -> None:
    d = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    out = one_model(method, d, weight=(1.0,), density=(0.4,), normalize=False, rescale=True)
    assert float(out.abs().sum()) == pytest.approx(float(d.abs().sum()), rel=1e-5)
    assert 0.35 < float((out != 0).float().mean()) < 0.45


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.5, 0.9])
def test_a_random_mask_keeps_its_share_everywhere(probability: float) -> None:
    rows, columns = 400, 500
    mask = keep(random_bits(key_of("seed", probability), 0, rows, columns, torch.device("cpu")), probability)
    sigma = math.sqrt(probability * (1 - probability))
    assert abs(float(mask.float().mean()) - probability) < 4 * sigma / math.sqrt(rows * columns)
    assert float((mask.float().mean(1) - probability).abs().max()) < 5 * sigma / math.sqrt(columns)
    assert float((mask.float().mean(0) - probability).abs().max()) < 5 * sigma / math.sqrt(rows)


def test_masks_of_other_keys_rows_and_columns_are_independent() -> None:
    cpu = torch.device("cpu")
    a = keep(random_bits(key_of(0, "a", 0), 0, 300, 300, cpu), 0.5).float() - 0.5
    others = {
        "seed": keep(random_bits(key_of(1, "a", 0), 0, 300, 300, cpu), 0.5).float() - 0.5,
        "tensor": keep(random_bits(key_of(0, "b", 0), 0, 300, 300, cpu), 0.5).float() - 0.5,
        "model": keep(random_bits(key_of(0, "a", 1), 0, 300, 300, cpu), 0.5).float() - 0.5,
        "next row": torch.roll(a, 1, 0),
        "next column": torch.roll(a, 1, 1),
    }
    for what, b in others.items():
        assert abs(float((a * b).mean()) * 4) < 5 / 300, what


def test_della_keeps_large_elements_more_often() -> None:
    d = torch.arange(1.0, 1001.0).repeat(400, 1)
    out = one_model("della_linear", d, weight=(1.0,), density=(0.5,), epsilon=(0.3,), rescale=False)
    share = (out != 0).float().mean(0)
    assert float(share[:100].mean()) == pytest.approx(0.23, abs=0.02)
    assert float(share[-100:].mean()) == pytest.approx(0.77, abs=0.02)
