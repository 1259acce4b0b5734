"""Any value in and around its documented range, on any weights: a finite result, or an error with a name."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.engine.export import MergeOptions, merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.errors import CandidateError, UserError
from evomerge.methods import Base, Parameter, get_method, methods
from evomerge.recipe import parse_recipe

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
}
SHAPES: list[tuple[int, ...]] = [
    (),
    (0,),
    (3, 0),
    (0, 3),
    (1,),
    (1, 1),
    (5,),
    (3, 4),
    (2, 3, 4),
    (1, 2, 1, 3),
]
NAMES = ("model.norm.w", "model.layers.0.w", "model.layers.1.w")
NUMBERS = (
    0,
    0.0,
    -0.0,
    1,
    1.0,
    0.5,
    5e-324,
    1e-300,
    1e-40,
    1e-8,
    1e-5,
    0.999999,
    2,
    3,
    -1,
    1e3,
    1e20,
    1e39,
    1e300,
)


def around(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Its bounds, their neighbours, words, and numbers of every size."""
    if parameter.kind is bool:
        return st.sampled_from([True, False, 0, 1, *parameter.words])
    bounds = [v for v in (parameter.low, parameter.high) if v is not None]
    near = [v + sign * step for v in bounds for sign in (-1, 1) for step in (0, 1e-9, 0.01)]
    near += [math.nextafter(v, to) for v in bounds for to in (-math.inf, math.inf)]
    one: st.SearchStrategy[Any] = st.sampled_from([*near, *NUMBERS, *parameter.words])
    if parameter.kind is int:
        one = st.sampled_from([0, 1, 2, 7, 10**4, 10**9, -1, 2.5, *bounds])
    gradient = st.lists(
        st.sampled_from([v for v in (*near, *NUMBERS) if isinstance(v, int | float)]), min_size=1
    )
    filters = st.builds(lambda a, b: [{"filter": "layers", "value": a}, {"value": b}], one, one)
    return st.one_of(one, gradient if parameter.kind is float else one, filters)


@st.composite
def weights(draw: st.DrawFn, count: int) -> list[Tensor]:
    """The tensors of base and models in float64: ordinary, equal, opposite, parallel, zero, of any size."""
    shape = draw(st.sampled_from(SHAPES))
    g = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    base = torch.randn(shape, generator=g, dtype=torch.float64) * draw(st.sampled_from([0.0, 1.0]))
    size = draw(st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 100.0]))
    d = torch.randn(shape, generator=g, dtype=torch.float64) * size
    changes = [draw(st.sampled_from([1.0, -1.0, 2.0, 0.0, 1 + 1e-7, None])) for _ in range(count)]
    models = [
        base + (torch.randn(shape, generator=g, dtype=torch.float64) * size if c is None else c * d)
        for c in changes
    ]
    scale = draw(st.sampled_from([1.0, 1.0, 1e-20, 1e-4, 1e4, 1e20]))
    return [x * scale for x in (base, *models)]


@st.composite
def merges(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """A recipe of the method, and the weights of its models."""
    method = get_method(name)
    low, high = method.models
    count = draw(st.integers(low, min(high or 3, 3)))
    has_base = method.base is Base.REQUIRED or (method.base is Base.OPTIONAL and draw(st.booleans()))
    per_model: list[dict[str, Any]] = [{} for _ in range(count)]
    shared: dict[str, Any] = {}
    for p in method.parameters.values():
        for scope in per_model if p.per_model else (shared,):
            if p.required or draw(st.booleans()):
                scope[p.name] = draw(around(p))
    models = [{"model": f"m{i}", "parameters": scope} for i, scope in enumerate(per_model)]
    recipe: dict[str, Any] = {"merge_method": name, "models": models, "parameters": shared}
    if has_base:
        recipe["base_model"] = "base"
    out = draw(st.sampled_from([None, "float32", "bfloat16", "float16"]))
    if out is not None:
        recipe["dtype"] = out
    stored = draw(weights(count))
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    return recipe, {
        m: [t.to(dtype)] for m, t in zip(("base", *(f"m{i}" for i in range(count))), stored, strict=True)
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"architectures": ["XForCausalLM"], "model_type": "x", "num_hidden_layers": 2}
    for model in ("base", "m0", "m1", "m2"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("name", [m.name for m in methods()])
def test_a_merge_is_finite_or_refused_by_name(name: str, folder: Path, kernels: str) -> None:
    ended = {"merged": 0, "refused": 0}

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(merges(name))
    def run(case: tuple[dict[str, Any], dict[str, list[Tensor]]]) -> None:
        document, stored = case
        for model, (tensor,) in stored.items():
            save_file({n: tensor.clone() for n in NAMES}, folder / model / "model.safetensors")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                recipe = parse_recipe(document)
                checkpoints = open_sources({r: r for r in recipe.references()}, (folder,))
                merge_to_disk(recipe, checkpoints, folder / "out", MergeOptions(threads=1, overwrite=True))
        except (UserError, CandidateError):
            ended["refused"] += 1
            return
        ended["merged"] += 1
        if all(t.shape == () and math.isinf(t) for m, (t,) in stored.items() if m != "base"):
            return  # one number at which all models are infinite is a setting, and copied
        for tensor in load_file(folder / "out" / "model.safetensors").values():
            assert bool(torch.isfinite(tensor.float()).all())
            assert tensor.shape == stored["m0"][0].shape

    run()
    assert ended["merged"] > 3, ended
