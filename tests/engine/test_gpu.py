"""The same code on a GPU: same masks, values within one rounding of the output, and nothing that waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import MakeModel
from test_memory_and_disk import recipe_of
from torch import Tensor

from evomerge.backends.transformers_model import TransformersModel
from evomerge.engine.compute import merge_tensor, rows_of
from evomerge.engine.export import MergeOptions, merge_to_disk
from evomerge.engine.plan import Input, TensorPlan
from evomerge.engine.sources import open_sources
from evomerge.engine.statistics import Statistics
from evomerge.errors import CandidateError
from evomerge.kernels import InMemory
from evomerge.kernels.gpu.launch import triton_kernels
from evomerge.methods import get_method, methods

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

# No sum of float64 has a part in these, so not a bit may differ.
EXACT = ("linear", "task_arithmetic", "passthrough", "ties", "breadcrumbs", "nearswap", "ram")
FUSED = (
    "linear",
    "slerp",
    "karcher",
    "model_stock",
    "nuslerp",
    "ties",
    "breadcrumbs",
    "dare_ties",
    "dare_linear",
)


@pytest.fixture
def family(make_model: MakeModel) -> dict[str, str]:
    names = ("base", "one", "two", "three")
    return {n: str(make_model(n, seed, dtype=torch.bfloat16)) for seed, n in enumerate(names)}


def test_triton_is_there() -> None:
    assert triton_kernels() is not None


@pytest.mark.parametrize("native", ["1", "0"], ids=["triton", "torch"])
@pytest.mark.parametrize("method", methods(), ids=lambda m: m.name)
def test_a_gpu_makes_the_weights_of_the_cpu(
    method: Any, native: str, family: dict[str, str], monkeypatch: pytest.MonkeyPatch, fused: list[str]
) -> None:
    recipe = recipe_of(method, list(family), out_dtype="bfloat16")
    cpu, gpu = TransformersModel(open_sources(family)), TransformersModel(open_sources(family), device="cuda")
    expected = cpu.load(recipe)
    monkeypatch.setenv("EVOMERGE_NATIVE", native)
    found = gpu.load(recipe)
    assert gpu.load(recipe) == found
    if native == "1" and method.name in FUSED:
        assert fused
    for name, tensor in cpu.model.state_dict().items():
        other = gpu.model.state_dict()[name].cpu()
        torch.testing.assert_close(other.float(), tensor.float(), rtol=2**-7, atol=1e-6)
    if method.name in EXACT:
        assert found == expected


def test_a_live_model_in_float32_and_a_folder_have_the_fingerprint(
    family: dict[str, str], tmp_path: Path
) -> None:
    recipe = recipe_of(get_method("ties"), list(family), out_dtype="bfloat16")
    expected = TransformersModel(open_sources(family)).load(recipe)
    wide = TransformersModel(open_sources(family), device="cuda", compute_dtype=torch.float32, threads=2)
    assert wide.load(recipe) == expected
    written = merge_to_disk(recipe, open_sources(family), tmp_path / "out", MergeOptions(device="cuda"))
    assert written.fingerprint == expected


def test_nan_in_a_source_is_a_failed_candidate(make_model: MakeModel, family: dict[str, str]) -> None:
    def poison(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = float("nan")

    bad = {**family, "one": str(make_model("bad", 1, dtype=torch.bfloat16, change=poison))}
    for name in ("linear", "ties", "dare_ties", "sce"):
        recipe = recipe_of(get_method(name), list(bad), out_dtype="bfloat16")
        with pytest.raises(CandidateError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
            TransformersModel(open_sources(bad), device="cuda").load(recipe)


def plan_of(name: str, shape: tuple[int, ...], parameters: dict[str, Any]) -> TensorPlan:
    method = get_method(name)
    has_base = name != "linear"
    defaults = {
        p.name: (p.default * 2 if p.per_model else p.default)
        for p in method.parameters.values()
        if not p.required
    }
    parts = tuple(Input(m, "t") for m in ("base", "one", "two")[0 if has_base else 1 :])
    return TensorPlan("t", shape, torch.bfloat16, name, parts, has_base, defaults | parameters)


KNOWN: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"weight": (0.3, 0.6)}),
    ("ties", {"weight": (0.3, 0.6), "density": (0.37, 0.5)}),
    ("dare_ties", {"weight": (0.3, 0.6), "density": (0.37, 0.5)}),
]


@pytest.mark.parametrize(("name", "parameters"), KNOWN, ids=[n for n, _ in KNOWN])
def test_nothing_waits_for_the_device_before_the_fingerprint(name: str, parameters: dict[str, Any]) -> None:
    base = torch.randn(512, 1024, device="cuda") * 0.02
    tensors = {"base": base.bfloat16()} | {
        n: (base + torch.randn(512, 1024, device="cuda") * 0.001).bfloat16() for n in ("one", "two")
    }
    plan, statistics, out = (
        plan_of(name, (512, 1024), parameters),
        Statistics(),
        torch.empty_like(base).bfloat16(),
    )

    def merge() -> None:
        merge_tensor(plan, lambda model, _: tensors[model], statistics, InMemory(rows_of(out)))

    merge()  # measures, compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        merge()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), KNOWN, ids=[n for n, _ in KNOWN])
def test_tensors_of_more_than_two_thousand_million_elements_are_merged_to_their_end(
    name: str, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fused: list[str]
) -> None:
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("needs 60 GiB of device memory")
    shape = (2**21 + 3, 1031)  # rows that no block ends with
    generator = torch.Generator("cuda").manual_seed(0)
    base = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, 0.02, generator=generator)
    tensors = {"base": base}
    for model in ("one", "two"):
        change = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
        tensors[model] = change.normal_(0, 0.001, generator=generator).add_(base)
    plan = plan_of(name, shape, parameters)
    outs, digests = [], []
    for native in ("1", "0"):
        monkeypatch.setenv("EVOMERGE_NATIVE", native)
        out = torch.empty_like(base)
        digests.append(
            merge_tensor(plan, lambda model, _: tensors[model], Statistics(), InMemory(rows_of(out)))
        )
        outs.append(out)
    assert len(fused) == 1
    for one, two in zip(outs[0].split(2**17), outs[1].split(2**17), strict=True):
        torch.testing.assert_close(one, two, rtol=2**-7, atol=1e-6)
    if name in EXACT:
        assert torch.equal(digests[0].state, digests[1].state)
