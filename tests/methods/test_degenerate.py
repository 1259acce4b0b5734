"""Degenerate inputs against a float64 oracle, with the error measured against the size of the change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from method_support import degenerate_inputs
from oracle import METHODS, NoAnswerError, answer
from torch import Tensor

from evomerge.engine.compute import merge_tensor, rows_of
from evomerge.engine.plan import Input, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.errors import UserError
from evomerge.kernels import InMemory
from evomerge.methods import Base, get_method, methods

OF_CHANGE = 1e-5
"""Error allowed, relative to the largest change of the tensor."""
ROUNDINGS = 16
"""Roundings of float32 (2^-24) of the largest weight at the same place that are allowed in addition: one is
that of the result itself."""

SHAPES: list[tuple[int, ...]] = [(6, 5), (), (1,), (40,), (1, 7), (7, 1), (3, 4, 5), (2, 3, 2, 2), (18, 20)]
KINDS = (
    "ordinary",
    "zero",
    "one zero",
    "equal",
    "opposite",
    "parallel",
    "nearly parallel",
    "nearly opposite",
    "zero row",
    "zero column",
)
BASES = ("ones", "zero", "random")
SIZES = (1e-20, 1e-4, 1.0, 1e4, 1e20)
TRIPLES = [
    (shape, BASES[(i + k) % len(BASES)], size)
    for i, shape in enumerate(SHAPES)
    for k, size in enumerate(SIZES)
]
"""Any two of shape, base and size meet."""

CASES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"weight": 1.0}),
    ("linear", {"weight": 0.3, "normalize": False}),
    ("task_arithmetic", {"weight": 0.7, "lambda": 1.3}),
    ("passthrough", {"scale": 0.7}),
    ("slerp", {"t": 0.3}),
    ("nuslerp", {"weight": 0.4}),
    ("nuslerp", {"weight": 0.4, "nuslerp_flatten": False}),
    ("nuslerp", {"weight": 0.4, "nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", {"weight": 1.0}),
    ("multislerp", {"weight": 0.6, "eps": 0.0}),
    ("multislerp", {"weight": 0.6, "normalize_weights": False}),
    ("karcher", {}),
    ("karcher", {"tol": 0.0}),
    ("model_stock", {}),
    ("model_stock", {"filter_wise": True}),
    ("ties", {"weight": 0.6, "density": 0.5}),
    ("ties", {"weight": 0.6, "density": 0.01, "rescale": True}),
    ("breadcrumbs", {"weight": 0.6, "density": 0.6, "gamma": 0.1}),
    ("breadcrumbs_ties", {"weight": 0.6, "density": 0.6, "gamma": 0.1, "rescale": True}),
    ("dare_linear", {"weight": 0.6, "density": 0.6}),
    ("dare_ties", {"weight": 0.6, "density": 0.6, "normalize": True}),
    ("della", {"weight": 0.6, "density": 0.6, "epsilon": 0.2}),
    ("della_linear", {"weight": 0.6, "density": 0.6, "epsilon": 0.2}),
    ("sce", {}),
    ("sce", {"select_topk": 0.5}),
    ("nearswap", {"t": 0.01}),
    ("arcee_fusion", {}),
    ("ram", {}),
    ("ramplus_tl", {"r": 0.3, "epsilon": 0.0}),
]


def parameters_of(name: str, given: dict[str, Any], count: int) -> dict[str, Any]:
    """All parameters of a method; weights of the models differ a little, as do those of a recipe."""
    found: dict[str, Any] = {}
    for p in get_method(name).parameters.values():
        if not p.per_model:
            found[p.name] = given.get(p.name, p.default)
            continue
        value = given[p.name] if p.name in given else p.default[0]
        found[p.name] = tuple(value * (1 + 0.25 * i if p.name == "weight" else 1) for i in range(count))
    return found


def merged(name: str, tensors: list[Tensor], parameters: dict[str, Any], *, has_base: bool) -> Tensor:
    shape = tuple(tensors[0].shape)
    sources = tuple(Input(str(i), "t") for i in range(len(tensors)))
    plan = TensorPlan("t", shape, torch.float32, name, sources, has_base, parameters)
    out = torch.empty(shape)
    read = dict(enumerate(tensors))
    merge_tensor(plan, lambda model, _: read[int(model)], Statistics(), InMemory(rows_of(out)))
    return out


def counts_and_bases(name: str) -> Iterator[tuple[int, bool]]:
    method = get_method(name)
    low, high = method.models
    for count in dict.fromkeys((max(low, 1), min(high or 3, 3))):
        if method.base is not Base.NONE:
            yield count, True
        if method.base is not Base.REQUIRED:
            yield count, False


def worst(name: str, tensors: list[Tensor], parameters: dict[str, Any], *, has_base: bool) -> float:
    """The largest error of compiled functions and of torch, in units of what is allowed."""
    base, models = (tensors[0], tensors[1:]) if has_base else (None, tensors)
    try:
        want = answer(name, base, models, parameters)
    except NoAnswerError:
        for _ in both_kernels():
            with pytest.raises(UserError, match="cancel out"):
                merged(name, tensors, parameters, has_base=has_base)
        return 0.0
    change = want.value - tensors[0].double() if has_base else want.value
    weights = torch.stack([want.value.abs(), *(x.double().abs() for x in tensors)]).amax(dim=0)
    allowed = OF_CHANGE * change.abs().max() + ROUNDINGS * 2.0**-24 * weights + 1e-44
    errors = [0.0]
    for _ in both_kernels():
        got = merged(name, tensors, parameters, has_base=has_base).double()
        if not want.open_.all():
            errors.append(float(((got - want.value).abs() / allowed)[~want.open_].max()))
    return max(errors)


def both_kernels() -> Iterator[str]:
    """Compiled functions and torch, in turn."""
    for switch in ("1", "0"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EVOMERGE_NATIVE", switch)
            yield switch


def test_any_two_of_shape_base_and_size_meet() -> None:
    for sides, product in (((0, 1), (SHAPES, BASES)), ((0, 2), (SHAPES, SIZES)), ((1, 2), (BASES, SIZES))):
        assert {tuple(t[i] for i in sides) for t in TRIPLES} == set(itertools.product(*product))


def test_the_oracle_knows_every_method() -> None:
    assert {m.name for m in methods()} == set(METHODS) == {name for name, _ in CASES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "given"), CASES, ids=lambda v: v if isinstance(v, str) else str(v))
def test_the_change_is_that_of_the_formula(name: str, given: dict[str, Any], kind: str) -> None:
    for shape, base_kind, size in TRIPLES:
        if name == "sce" and not 1e-18 < size < 1e18:
            continue  # it squares changes in float32: beyond its range is refused, below counts as no change
        for count, has_base in counts_and_bases(name):
            tensors = degenerate_inputs(kind, base_kind, shape, size, count)
            tensors = tensors if has_base else tensors[1:]
            error = worst(name, tensors, parameters_of(name, given, count), has_base=has_base)
            assert error <= 1, (shape, base_kind, size, count, has_base, error)
