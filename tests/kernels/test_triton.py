"""Kernels for GPUs, without one: Triton's interpreter runs them, its compiler makes code for real devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_support import EXAMPLES, bits, degenerate_inputs, inputs, plan_of
from support import ROOT
from torch import Tensor

from evomerge.engine.compute import merge_tensor, rows_of
from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.plan import TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.kernels import Digest, InMemory
from evomerge.kernels.gpu import launch
from evomerge.kernels.gpu.launch import triton_kernels

pytest.importorskip("triton", reason="Triton is not installed (the extra `dev` has it on Linux)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's kernels are for the CUDA device here; see test_gpu.py", allow_module_level=True)

# A row longer than a block, rows that blocks cutoff, a whole number of blocks, and one element.
LONG, CUT, WHOLE, SINGLE = (3, 2050), (70, 33), (2, 2048), (1, 1)
MERGES = {  # dtype of the output -> shape and dtype of the inputs
    torch.bfloat16: [
        *((shape, torch.bfloat16) for shape in (LONG, CUT, WHOLE, SINGLE)),
        (CUT, torch.float32),
    ],
    torch.float32: [(LONG, torch.float32), (CUT, torch.bfloat16)],
    torch.float16: [(CUT, torch.float32)],
}
COVERED = sorted(set(EXAMPLES) - {"della", "della_linear", "sce", "ramplus_tl"})
DTYPES = [torch.bfloat16, torch.float32, torch.float16]

Merge = Callable[..., tuple[Tensor, Digest]]


@pytest.fixture
def merge(monkeypatch: pytest.MonkeyPatch) -> Merge:
    def merge(plan: TensorPlan, tensors: dict[str, Tensor], how: str, place: Tensor | None = None) -> Any:
        monkeypatch.setenv("EVOMERGE_NATIVE", how)
        out = torch.empty(plan.shape, dtype=plan.dtype) if place is None else place
        digest = merge_tensor(plan, lambda model, _: tensors[model], Statistics(), InMemory(rows_of(out)))
        return out, digest

    return merge


def test_triton_can_be_used() -> None:
    assert triton_kernels() is not None


@pytest.mark.parametrize("out", MERGES, ids=str)
@pytest.mark.parametrize("name", COVERED)
def test_bits_and_digests_are_those_of_the_cpu(
    name: str, out: torch.dtype, merge: Merge, fused: list[str]
) -> None:
    parameters = {"rescale": False} if name == "breadcrumbs_ties" else {}
    for shape, dtype in MERGES[out]:
        plan, tensors = plan_of(name, shape, out), inputs(shape, dtype)
        plan.parameters.update(parameters)
        fused.clear()
        ours, digest = merge(plan, tensors, "triton")
        assert fused or shape == (1, 1), shape  # where nothing is kept there is nothing to do
        theirs, expected = merge(plan, tensors, "1")
        assert torch.equal(bits(ours), bits(theirs)), (shape, dtype)
        assert torch.equal(digest.state, expected.state), (shape, dtype)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - set(COVERED)))
def test_what_has_no_kernel_is_left_to_torch(name: str, merge: Merge, fused: list[str]) -> None:
    plan, tensors = plan_of(name, (70, 33), torch.bfloat16), inputs((70, 33), torch.bfloat16)
    ours, digest = merge(plan, tensors, "triton")
    assert not fused
    theirs, expected = merge(plan, tensors, "0")
    assert torch.equal(bits(ours), bits(theirs))
    assert torch.equal(digest.state, expected.state)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("linear", {"weight": (0.0, 1.0, 0.0)}),
        ("linear", {"weight": (0.0, 0.0, 0.0), "normalize": False}),
        ("nuslerp", {"nuslerp_flatten": False}),
        ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
        ("ties", {"density": (1.0, 0.0, 0.5), "weight": (0.5, 0.3, 0.0)}),
        ("ties", {"density": (0.0, 0.0, 0.0)}),
        ("ties", {"density": (0.5, 0.4, 0.3), "rescale": True}),
        ("ties", {"density": (1.0, 1.0, 1.0), "lambda": 0.5, "normalize": False}),
        ("breadcrumbs", {"density": (0.5, 1.0, 0.8), "gamma": (0.2, 0.1, 0.0)}),
        ("breadcrumbs", {"normalize": True, "weight": (0.5, -0.5, 0.25)}),
        ("dare_linear", {"density": (0.001, 0.0, 1.0), "normalize": True}),
        ("dare_ties", {"density": (0.2, 0.3, 0.4), "rescale": "inverse_density", "lambda": 2.0}),
    ],
)
def test_every_kind_of_mask_and_sum_has_the_bits_of_the_cpu(
    name: str, parameters: dict[str, Any], merge: Merge
) -> None:
    for shape in ((5, 2050), (90, 33)):
        plan, tensors = plan_of(name, shape, torch.bfloat16), inputs(shape, torch.bfloat16)
        plan.parameters.update(parameters)
        ours, digest = merge(plan, tensors, "triton")
        theirs, expected = merge(plan, tensors, "1")
        assert torch.equal(bits(ours), bits(theirs)), shape
        assert torch.equal(digest.state, expected.state), shape


def test_a_cut_among_equal_elements_of_many_blocks_is_exact(merge: Merge, fused: list[str]) -> None:
    shape = (9, 2048)
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name in ("base", "x0", "x1", "x2")}
    tensors["x0"][:, ::2] = 1.0
    tensors["x1"][3:] = -2.0
    tensors["x2"][4, 5] = 3.0
    for density in (1e-3, 0.25, 0.3333, 0.5, 0.75):
        plan = plan_of("ties", shape, torch.float32)
        plan.parameters.update(density=(density,) * 3)
        ours, _ = merge(plan, tensors, "triton")
        theirs, _ = merge(plan, tensors, "1")
        assert torch.equal(ours, theirs), density
    assert len(fused) == 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["linear", "ties", "dare_ties", "breadcrumbs"])
@pytest.mark.parametrize("how", ["triton", "1", "0"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, which interprets
def test_an_element_that_is_not_finite_is_found(name: str, how: str, bad: float, merge: Merge) -> None:
    from evomerge.errors import CandidateError

    for where in ("base", "x1"):
        plan, tensors = plan_of(name, (5, 2050), torch.bfloat16), inputs((5, 2050), torch.float32)
        tensors = {**tensors, "x1": tensors["x1"].clone(), "base": tensors["base"].clone()}
        if where == "base" and not plan.has_base:
            continue
        tensors[where][4, 2049] = bad
        with pytest.raises(CandidateError, match="NaN"):
            merge(plan, tensors, how)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("out", DTYPES, ids=str)
def test_overflow_in_the_dtype_of_the_output_is_found(out: torch.dtype, merge: Merge) -> None:
    from evomerge.errors import CandidateError

    largest = torch.finfo(out).max
    plan = plan_of("passthrough", (4, 8), out)
    plan.parameters.update(scale=(1.0,))
    tensors = {"x0": torch.full((4, 8), largest)}
    done, _ = merge(plan, tensors, "triton")
    assert torch.equal(done, torch.full((4, 8), largest, dtype=out))
    plan.parameters.update(scale=(2.0,))
    with pytest.raises(CandidateError):
        merge(plan, tensors, "triton")


def test_a_live_model_in_another_dtype_holds_what_was_rounded(merge: Merge, fused: list[str]) -> None:
    plan, tensors = plan_of("ties", (70, 33), torch.bfloat16), inputs((70, 33), torch.bfloat16)
    theirs, expected = merge(plan, tensors, "1")
    for place in (torch.empty(70, 33), torch.empty(70, 66)[:, ::2]):
        ours, digest = merge(plan, tensors, "triton", place)
        assert torch.equal(ours, theirs.float())
        assert torch.equal(digest.state, expected.state)
    assert len(fused) == 2


def test_inputs_that_are_not_aligned_give_the_same_bits(merge: Merge) -> None:
    plan, tensors = plan_of("task_arithmetic", (5, 2050), torch.bfloat16), inputs((5, 2050), torch.bfloat16)
    room = {name: torch.zeros(5 * 2050 + 1, dtype=torch.bfloat16) for name in tensors}
    shifted = {name: room[name][1:].view(5, 2050).copy_(tensor) for name, tensor in tensors.items()}
    ours, digest = merge(plan, shifted, "triton")
    theirs, expected = merge(plan, tensors, "1")
    assert torch.equal(bits(ours), bits(theirs))
    assert torch.equal(digest.state, expected.state)


def test_sixteen_inputs_are_merged_by_triton_and_more_by_torch(merge: Merge, fused: list[str]) -> None:
    from dataclasses import replace

    from evomerge.engine.plan import Input

    for count in (16, 17):
        fused.clear()
        plan = plan_of("linear", (70, 33), torch.bfloat16)
        names = [f"x{i}" for i in range(count)]
        weights = tuple(0.1 * (i + 1) for i in range(count))
        parts = tuple(Input(name, "t") for name in names)
        plan = replace(plan, inputs=parts, parameters={**plan.parameters, "weight": weights})
        tensors = {name: inputs((70, 33), torch.bfloat16)[f"x{i % 3}"] for i, name in enumerate(names)}
        ours, digest = merge(plan, tensors, "triton")
        theirs, expected = merge(plan, tensors, "1")
        assert torch.equal(bits(ours), bits(theirs))
        assert fingerprint([plan], [digest]) == fingerprint([plan], [expected])
        assert len(fused) == (1 if count == 16 else 0)


COMPILE = """
import re
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from evomerge.kernels.gpu import triton_kernels

POINTERS = dict.fromkeys(("addresses", "coefficients", "state", "prefix"), "*i64")
POINTERS |= dict.fromkeys(("vectors", "divergence"), "*fp32") | dict.fromkeys(("factors", "sums"), "*fp64")
POINTERS |= {"place": "*bf16", "counts": "*i32"}
BASE = dict(KIND=tl.bfloat16, ALIGNED=True, BLOCK=2048)
WRITE = dict(BASE, OUT=tl.bfloat16, WORDS=512, LONG=True)
MASKED = dict(WRITE, CUTOFFS=0, CONSENSUS=True, NORMALIZE=True, SCALED=True)
KERNELS = [
    (triton_kernels.weighted_sum, dict(WRITE, COUNT=3, VECTORS=0), 3),
    (triton_kernels.weighted_sum, dict(WRITE, COUNT=16, VECTORS=0), 16),
    (triton_kernels.weighted_sum, dict(WRITE, COUNT=3, VECTORS=0, OUT=tl.float32, BLOCK=1024), 0),
    (triton_kernels.masked_sum, dict(MASKED, COUNT=2, MODE=2, OUT=tl.float16, KIND=tl.float32), 6),
    (triton_kernels.weighted_sum, dict(WRITE, COUNT=4, VECTORS=1), 4),
    (triton_kernels.weighted_sum, dict(WRITE, COUNT=4, VECTORS=2, LONG=False), 4),
    (triton_kernels.masked_sum, dict(MASKED, COUNT=3, MODE=0), 4),
    (triton_kernels.masked_sum, dict(MASKED, COUNT=3, MODE=1, CUTOFFS=1), 4),
    (triton_kernels.masked_sum, dict(MASKED, COUNT=3, MODE=1, CUTOFFS=2), 4),
    (triton_kernels.masked_sum, dict(MASKED, COUNT=3, MODE=2), 4),
    (triton_kernels.masked_sum, dict(MASKED, COUNT=3, MODE=2, LONG=False, CONSENSUS=False), 4),
    (triton_kernels.selected, dict(WRITE, COUNT=1, HOW=0), 2),
    (triton_kernels.selected, dict(WRITE, COUNT=1, HOW=1), 2),
    (triton_kernels.selected, dict(WRITE, COUNT=3, HOW=2), 4),
    (triton_kernels.equal_counts, dict(BASE, COUNT=3, CUTOFFS=2), 4),
    (triton_kernels.random_l1, dict(BASE, COUNT=3, SPAN=8, LONG=True), 6),
]
TARGETS = ((90, False), (90, True), (80, False), (90, None))
ONCE = (triton_kernels.equal_counts, triton_kernels.random_l1)
for i, (function, constants, loads) in enumerate(KERNELS):
    # A function that is listed several times meets each target in some of its forms.
    for arch, big in TARGETS if function in ONCE else TARGETS[i % 2 :: 2]:
        constants = dict(constants, BIG=bool(big))
        if big is None:  # Triton takes coefficients that are 1 as constants
            constants |= {"n": 1, **({"columns": 1, "LONG": False} if "LONG" in constants else {})}
        signature, hints = {}, {}
        for place, name in enumerate(function.arg_names):
            wide = "i64" if big and name == "n" else "i32"
            signature[name] = "constexpr" if name in constants else POINTERS.get(name, wide)
            if name in POINTERS or (name == "n" and name not in constants):
                hints[place,] = [["tt.divisibility", 16]]
        source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=hints)
        options = {"num_warps": 8, "enable_fp_fusion": False}
        ptx = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]
        where = (function.__name__, constants, arch)
        assert not re.search(r"fma\\.rn\\S*\\.f32", ptx), where  # each operation is rounded on its own
        assert not re.search(r"(add|sub|mul)\\S*\\.ftz", ptx), where
        assert not re.search(r"div\\.(full|approx)", ptx), where
        if big is None:
            continue
        wide = len(re.findall(r"ld\\.global\\S*\\.v4", ptx))
        assert wide >= loads, (where, wide)  # 128 bits at a time
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_real_devices_with_wide_loads_and_exact_operations(tmp_path: Any) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_where_triton_does_not_run_torch_does_the_work(
    monkeypatch: pytest.MonkeyPatch, merge: Merge, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("Failed to find C compiler")

    plan, tensors = plan_of("linear", (70, 33), torch.bfloat16), inputs((70, 33), torch.bfloat16)
    expected, _ = merge(plan, tensors, "1")
    launch.runs_on.cache_clear()
    monkeypatch.setattr(launch, "_kernel", broken)
    try:
        found, _ = merge(plan, tensors, "triton")
    finally:
        launch.runs_on.cache_clear()
    assert torch.equal(bits(found), bits(expected))
    assert "C compiler" in caplog.text


@pytest.mark.parametrize("kind", ["zero", "one zero", "equal", "opposite", "nearly opposite", "zero row"])
@pytest.mark.parametrize("name", COVERED)
def test_degenerate_inputs_give_the_bits_of_the_cpu(name: str, kind: str, merge: Merge) -> None:
    """Ill-conditioned sums are left to torch, which adds them in float64 on any device."""
    for shape in ((6, 5), (3, 4, 5)):
        plan = plan_of(name, shape, torch.float32)
        models = dict(
            zip(("base", "x0", "x1", "x2"), degenerate_inputs(kind, "random", shape, 1.0, 3), strict=True)
        )
        variants: list[dict[str, Any]] = [{}]
        if name == "nuslerp":
            variants = [{"nuslerp_flatten": False, "nuslerp_row_wise": by_row} for by_row in (False, True)]
        for variant in variants:
            plan.parameters.update(variant)
            ours, digest = merge(plan, models, "triton")
            theirs, expected = merge(plan, models, "1")
            assert torch.equal(bits(ours), bits(theirs)), (shape, variant)
            assert torch.equal(digest.state, expected.state), (shape, variant)
