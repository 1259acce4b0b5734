"""What every merge method that is registered promises, those of plugins included."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from method_support import (
    EXAMPLES,
    ModelFolders,
    bits,
    example_recipe,
    inputs,
    merge_in_memory,
    merged,
    plan_of,
    recipe_of,
)
from safetensors.torch import load_file
from support import LLAMA, llama_shapes, save_model

from evomerge.backends.transformers_model import TransformersModel
from evomerge.engine.compute import ComputePool
from evomerge.engine.export import MergeOptions, merge_to_disk
from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.plan import TensorPlan
from evomerge.engine.sources import open_sources
from evomerge.engine.statistics import Statistics
from evomerge.errors import CandidateError, UserError
from evomerge.kernels import Digest
from evomerge.methods import Parameter, get_method, methods
from evomerge.recipe import parse_recipe

NAMES = [m.name for m in methods()]
SHAPES = [(70, 33), (1000,), (17, 2050), (64, 1), (1, 5), (3, 20, 7)]
SINGLE = [torch.bfloat16, torch.float32, torch.float16]
STORED = [torch.float64, torch.float8_e4m3fn, *SINGLE]

pytestmark = pytest.mark.parametrize("name", NAMES)


def with_defaults(plan: TensorPlan) -> TensorPlan:
    """The plan with the example's value of those parameters only that have no default."""
    count = len(plan.inputs) - plan.has_base
    parameters = {
        p.name: plan.parameters[p.name] if p.required else p.default * count if p.per_model else p.default
        for p in get_method(plan.method).parameters.values()
    }
    return replace(plan, parameters=parameters)


def test_it_has_an_example_and_says_what_it_does(name: str) -> None:
    method = get_method(name)
    low, high = method.models
    assert name in EXAMPLES, "add an example to tests/method_support.py"
    assert method.doc.endswith(".")
    assert method.source
    assert 1 <= low <= (high or low)
    assert set(EXAMPLES[name].parameters) <= set(method.parameters)
    for parameter in method.parameters.values():
        assert parameter.doc
        if not parameter.required:
            for value in parameter.default if parameter.per_model else (parameter.default,):
                assert parameter.check(value) == value


@pytest.mark.parametrize("dtype", SINGLE, ids=str)
@pytest.mark.usefixtures("kernels")
def test_chunks_cannot_change_a_bit(name: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        plan, tensors = plan_of(name, shape, torch.float32), inputs(shape, dtype)
        whole, digest = merge_in_memory(plan, tensors, 1 << 16)
        for chunk_elements in (1, 700, 5000):
            found, other = merge_in_memory(plan, tensors, chunk_elements)
            assert torch.equal(bits(whole), bits(found)), (shape, chunk_elements)
            assert torch.equal(digest.state, other.state), (shape, chunk_elements)


@pytest.mark.usefixtures("kernels")
def test_threads_cannot_change_a_bit(name: str) -> None:
    jobs = [(plan_of(name, s, torch.float32), inputs(s, torch.bfloat16)) for s in ((400, 257), (90_000,))]
    results, before = [], torch.get_num_threads()
    for threads, torch_threads in ((1, 1), (2, 2)):
        torch.set_num_threads(torch_threads)
        pool = ComputePool(threads)
        results.append(pool.map(lambda job: merged(*job, 1 << 14), jobs))
        pool.close()
    torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(bits(one), bits(two))


@pytest.mark.parametrize("out", SINGLE, ids=str)
def test_compiled_functions_give_the_bits_of_torch(
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
            if EXAMPLES[name].is_exact:
                assert torch.equal(bits(native), bits(plain)), (shape, dtype)
                continue
            rtol = 1e-2 if out is torch.bfloat16 else 1e-3
            torch.testing.assert_close(native, plain, rtol=rtol, atol=1e-7)
            differing = float((bits(native) != bits(plain)).float().mean())
            assert differing < 0.02, (shape, dtype, differing)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small Llamas: a base and three fine-tunes, by name."""
    folder = tmp_path_factory.mktemp("family")
    g = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=g) * 0.1 for n, s in llama_shapes(LLAMA).items()}
    for name in ("base", "x0", "x1", "x2"):
        own = 0.01 * (name != "base")
        save_model(folder / name, {n: t + torch.randn(t.shape, generator=g) * own for n, t in base.items()})
    return {name: str(folder / name) for name in ("base", "x0", "x1", "x2")}


@pytest.fixture(scope="module")
def live(family: dict[str, str]) -> TransformersModel:
    """One that has held the candidates of all methods before: none of them may leave a trace."""
    return TransformersModel(open_sources(family))


@pytest.mark.parametrize("out", ["float32", "bfloat16"])
def test_memory_and_disk_hold_the_same_bits(
    name: str, out: str, family: dict[str, str], live: TransformersModel, tmp_path: Path
) -> None:
    recipe = parse_recipe(example_recipe(name, out_dtype=out))
    scored = live.load(recipe)
    options = MergeOptions(threads=2, chunk_elements=100)
    result = merge_to_disk(recipe, open_sources(family), tmp_path / "out", options)
    assert result.fingerprint == scored
    on_disk = load_file(tmp_path / "out" / "model.safetensors")
    held = live.model.state_dict()
    assert set(held) == set(on_disk)
    for tensor, weight in on_disk.items():
        assert weight.dtype == getattr(torch, out)
        assert torch.equal(bits(held[tensor].detach()), bits(weight)), tensor


@pytest.mark.usefixtures("kernels")
def test_a_digest_is_that_of_the_result(name: str) -> None:
    for out in SINGLE:
        plan = plan_of(name, (70, 33), out)
        found, digest = merge_in_memory(plan, inputs((70, 33), torch.bfloat16), 700)
        expected = Digest.on(torch.device("cpu"))
        expected.add(found, 0)
        assert fingerprint([plan], [digest]) == fingerprint([plan], [expected])


@pytest.mark.usefixtures("kernels")
def test_equal_models_give_themselves(name: str) -> None:
    """With defaults, on whatever base of that weights: all parts of a merge are shares of a whole."""
    for shape in ((70, 33), (1000,), (3, 20, 7)):
        same = inputs(shape, torch.float32)["x0"]
        found = merged(
            with_defaults(plan_of(name, shape, torch.float32)),
            dict.fromkeys(("base", "x0", "x1", "x2"), same),
        )
        torch.testing.assert_close(found, same, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("kernels")
def test_models_may_change_places_where_it_says_so(name: str) -> None:
    plan, tensors = plan_of(name, (70, 33), torch.float32), inputs((70, 33), torch.float32)
    others = [i.model for i in plan.inputs[plan.has_base :]]
    count = len(others)
    if count < 2:
        return
    turned = [*range(1, count), 0]
    moved = {
        k: tuple(v[i] for i in turned) if isinstance(v, tuple) else v for k, v in plan.parameters.items()
    }
    places = {other: tensors[others[i]] for other, i in zip(others, turned, strict=True)}
    found = merged(replace(plan, parameters=moved), {**tensors, **places})
    change = (found - merged(plan, tensors)).abs().max() / tensors["base"].abs().max()
    assert (float(change) < 1e-6) == EXAMPLES[name].is_symmetric


@pytest.mark.usefixtures("kernels")
def test_inputs_of_any_dtype_are_float32_to_it_and_the_result_is_rounded_once(name: str) -> None:
    for shape in ((70, 33), (1000,)):
        stored = inputs(shape, torch.float64)
        for i, (model, dtype) in enumerate(zip(stored, STORED, strict=False)):
            stored[model] = stored[model].to(STORED[(i + 1) % 5] if model == "base" else dtype)
        exact = merged(plan_of(name, shape, torch.float32), {m: x.float() for m, x in stored.items()})
        for out in (torch.float64, *SINGLE):
            found = merged(plan_of(name, shape, out), stored)
            assert found.dtype == out
            assert torch.equal(bits(found), bits(exact.to(out))), (shape, out)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3), (), (1,), (1, 1)], ids=str)
def test_empty_and_smallest_tensors_are_merged(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    folders = ModelFolders(tmp_path)
    folders.store(inputs(shape, torch.bfloat16))
    folders.merge_recipe(example_recipe(name, dtype="float32"))
    assert folders.merged.shape == shape
    assert bool(torch.isfinite(folders.merged).all())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38], ids=str)
def test_a_result_is_finite_or_refused(name: str, bad: float) -> None:
    plan, tensors = plan_of(name, (20, 33), torch.float16), inputs((20, 33), torch.float32)
    refused = 0
    for model in [i.model for i in plan.inputs]:
        spoiled = tensors[model].clone()
        spoiled[7, 11] = bad
        try:
            found = merged(plan, {**tensors, model: spoiled})
        except (CandidateError, UserError):
            refused += 1
        else:
            assert bool(torch.isfinite(found).all())
    assert refused or not math.isnan(bad), "NaN in every input has gone unnoticed"


def outside(parameter: Parameter) -> list[Any]:
    """Values that it may not have."""
    beyond = [] if parameter.low is None else [parameter.low - 1]
    beyond += [] if parameter.high is None else [parameter.high + 1e-3, parameter.high + 1]
    broken: list[Any] = [math.nan, math.inf, "twice", [[1]]]
    return [*beyond, *broken, *([1.5] if parameter.kind is int else [])]


def scopes_of(document: dict[str, Any], parameter: Parameter) -> list[dict[str, Any]]:
    """Where a recipe sets it."""
    return [m["parameters"] for m in document["models"]] if parameter.per_model else [document["parameters"]]


def test_parameters_are_held_to_their_bounds_by_name(name: str, tmp_path: Path) -> None:
    folders = ModelFolders(tmp_path)
    folders.store(inputs((4, 5), torch.float32))
    for parameter in get_method(name).parameters.values():
        for value in outside(parameter):
            document = example_recipe(name)
            scopes_of(document, parameter)[0][parameter.name] = value
            with pytest.raises(UserError, match=rf"\b{parameter.name}\b"):
                folders.merge_recipe(document)
        for value in (parameter.low, parameter.high):
            assert value is None or parameter.check(value) == value


def test_a_parameter_without_a_default_is_asked_for_by_name(name: str, tmp_path: Path) -> None:
    folders = ModelFolders(tmp_path)
    folders.store(inputs((4, 5), torch.float32))
    for parameter in get_method(name).parameters.values():
        document = example_recipe(name)
        for scope in scopes_of(document, parameter):
            scope.pop(parameter.name, None)
        if not parameter.required:
            folders.merge_recipe(document)
            continue
        with pytest.raises(UserError, match=rf"\b{parameter.name}\b"):
            folders.merge_recipe(document)


def test_fewer_and_more_models_than_it_takes_are_refused(name: str, tmp_path: Path) -> None:
    folders, (low, high) = ModelFolders(tmp_path), get_method(name).models
    tensors = inputs((4, 5), torch.float32)
    folders.store({f"x{i}": tensors["x0"] for i in range(5)} | {"base": tensors["base"]})
    plan = plan_of(name, (4, 5), torch.float32)
    top = {"base_model": "base"} if plan.has_base else {}
    given = {k: v[:1] * 5 if isinstance(v, tuple) else v for k, v in EXAMPLES[name].parameters.items()}
    for count in range(1, 6):
        document = recipe_of(name, count, given, **top)
        if low <= count <= (high or count):
            folders.merge_recipe(document)
        else:
            with pytest.raises(UserError):
                folders.merge_recipe(document)


@pytest.mark.usefixtures("kernels")
def test_statistics_of_one_candidate_serve_the_next(name: str) -> None:
    for shape in ((70, 33), (3, 20, 7)):
        tensors, plans = inputs(shape, torch.bfloat16), [plan_of(name, shape, torch.float32)]
        plans.append(with_defaults(plans[0]))
        for order in (plans, plans[::-1]):
            statistics = Statistics()
            for plan in order:
                found, _ = merge_in_memory(plan, tensors, statistics=statistics)
                assert torch.equal(bits(found), bits(merged(plan, tensors)))


@pytest.mark.usefixtures("kernels")
def test_inputs_stay_as_they_are(name: str) -> None:
    tensors = inputs((70, 33), torch.float32)
    before = {m: x.clone() for m, x in tensors.items()}
    merged(plan_of(name, (70, 33), torch.float32), tensors)
    assert all(torch.equal(bits(tensors[m]), bits(x)) for m, x in before.items())


@pytest.mark.usefixtures("kernels")
def test_the_name_of_a_tensor_counts_for_random_masks_only(name: str) -> None:
    tensors = inputs((70, 33), torch.float32)
    one, two = (merged(plan_of(name, (70, 33), torch.float32, tensor), tensors) for tensor in ("w", "v"))
    assert torch.equal(one, two) == ("key" not in get_method(name).context)
