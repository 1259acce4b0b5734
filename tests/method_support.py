"""What tests of merge methods share: an example of each, inputs, and merges in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.engine.compute import merge_tensor, rows_of
from evomerge.engine.export import MergeOptions, MergeResult, merge_to_disk
from evomerge.engine.plan import Input, TensorPlan
from evomerge.engine.sources import open_sources
from evomerge.engine.statistics import Statistics
from evomerge.kernels import Digest, InMemory
from evomerge.methods import Base, get_method
from evomerge.recipe import parse_recipe


@dataclass(frozen=True)
class Example:
    """Parameters that use what a method can do, and what it does not promise.

    ``is_symmetric``: models that change places, with their parameters, change nothing. ``is_exact``: compiled
    functions give the bits of torch; sums in float64 go in another order there, so that their last bit may
    differ, and with it a rounding.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_symmetric: bool = True
    is_exact: bool = True


_SPARSE = {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 0.9)}
_RANDOM = {"weight": (0.5, 0.3, 0.4), "density": (0.5, 0.31, 1.0)}
_DRAWN = {"is_symmetric": False, "is_exact": False}  # another mask for each number of a model

EXAMPLES: dict[str, Example] = {
    "linear": Example({"weight": (0.2, 0.3, 0.4)}),
    "task_arithmetic": Example({"weight": (0.5, 0.3, -0.2)}),
    "slerp": Example({"t": 0.3}, is_exact=False),
    "nuslerp": Example({"weight": (0.4, 0.8)}, is_exact=False),
    "multislerp": Example({"weight": (0.3, 0.4, 0.5)}, is_exact=False),
    "karcher": Example(is_exact=False),
    "model_stock": Example({"filter_wise": True}, is_exact=False),
    "passthrough": Example({"scale": (0.7,)}),
    "ties": Example(_SPARSE),
    "breadcrumbs": Example(_SPARSE),
    "breadcrumbs_ties": Example({**_SPARSE, "rescale": True}),
    "dare_linear": Example(_RANDOM, **_DRAWN),
    "dare_ties": Example({**_RANDOM, "normalize": True, "lambda": 0.7}, **_DRAWN),
    "della": Example(_RANDOM, **_DRAWN),
    "della_linear": Example(_RANDOM, **_DRAWN),
    "sce": Example({"select_topk": 0.4}, is_exact=False),
    "nearswap": Example({"t": 0.001}),
    "arcee_fusion": Example(),
    "ram": Example(),
    "ramplus_tl": Example({"r": 0.3}),
}
"""Of every method that is registered; plugins add theirs."""


def plan_of(name: str, shape: tuple[int, ...], dtype: torch.dtype, tensor: str = "w") -> TensorPlan:
    """The example of a method on three models (or as many as it takes), and on a base where it needs one."""
    method = get_method(name)
    has_base = method.base is Base.REQUIRED
    count = method.models[1] or 3
    parameters = {
        p.name: (p.default * count if p.per_model else p.default)
        for p in method.parameters.values()
        if not p.required
    }
    read = tuple(Input(m, "w") for m in (["base"] if has_base else []) + [f"x{i}" for i in range(count)])
    bound = {**parameters, **EXAMPLES[name].parameters}
    return TensorPlan(tensor, shape, dtype, name, read, has_base, bound)


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Three models and their base. Many elements equal the base's; in bfloat16 many differences are equal."""
    g = torch.Generator().manual_seed(1)
    base = torch.randn(shape, generator=g) * 0.02
    found = {"base": base.to(dtype)}
    for i in range(3):
        change = torch.randn(shape, generator=g) * 0.001 * (torch.rand(shape, generator=g) < 0.7)
        found[f"x{i}"] = (base + change).to(dtype)
    return found


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


def merge_in_memory(
    plan: TensorPlan,
    tensors: Mapping[str, Tensor],
    chunk_elements: int | None = None,
    statistics: Statistics | None = None,
) -> tuple[Tensor, Digest]:
    """The merge of these tensors, by the names of the models, and its digest."""
    out = torch.empty(plan.shape, dtype=plan.dtype)
    digest = merge_tensor(
        plan,
        lambda model, _: tensors[model],
        Statistics() if statistics is None else statistics,
        InMemory(rows_of(out)),
        chunk_elements=chunk_elements,
    )
    return out, digest


def merged(plan: TensorPlan, tensors: Mapping[str, Tensor], chunk_elements: int | None = None) -> Tensor:
    """The merge of these tensors, by the names of the models."""
    return merge_in_memory(plan, tensors, chunk_elements)[0]


def bits(tensor: Tensor) -> Tensor:
    """What is compared where nothing may differ, not even the sign of a zero."""
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])


def recipe_of(method: str, count: int, settings: Mapping[str, Any], **top: Any) -> dict[str, Any]:
    """A recipe for models x0, x1, ...; of the settings, lists and tuples have one number per model."""
    per_model = {k: v for k, v in settings.items() if isinstance(v, list | tuple)}
    models = [{"model": f"x{i}", "parameters": {k: v[i] for k, v in per_model.items()}} for i in range(count)]
    shared = {k: v for k, v in settings.items() if k not in per_model}
    return {"merge_method": method, "models": models, "parameters": shared, **top}


def example_recipe(name: str, **top: Any) -> dict[str, Any]:
    """The recipe of the example of a method."""
    plan = plan_of(name, (1,), torch.float32)
    count = len(plan.inputs) - plan.has_base
    base = {"base_model": "base"} if plan.has_base else {}
    return recipe_of(name, count, EXAMPLES[name].parameters, **base, **top)


class ModelFolders:
    """Models of one tensor, ``w``, and merges of them, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def store(self, tensors: Mapping[str, Tensor]) -> None:
        """One model folder for each name."""
        config = {"architectures": ["XForCausalLM"], "model_type": "x", "num_hidden_layers": 2}
        for model, tensor in tensors.items():
            (self.folder / model).mkdir(exist_ok=True)
            (self.folder / model / "config.json").write_text(json.dumps(config))
            save_file({"w": tensor.clone()}, self.folder / model / "model.safetensors")

    def merge_recipe(self, document: Mapping[str, Any], **options: Any) -> MergeResult:
        """Writes the merge; ``merged`` reads it."""
        recipe = parse_recipe(dict(document))
        checkpoints = open_sources({r: r for r in recipe.references()}, (self.folder,))
        return merge_to_disk(
            recipe, checkpoints, self.folder / "out", MergeOptions(overwrite=True, **options)
        )

    @property
    def merged(self) -> Tensor:
        """The last result."""
        return load_file(self.folder / "out" / "model.safetensors")["w"]

    def merge(
        self, method: str, models: Sequence[Tensor], base: Tensor | None, settings: Mapping[str, Any]
    ) -> Tensor:
        """The merge of these tensors, from folder to folder; settings as in ``recipe_of``."""
        self.store({f"x{i}": x for i, x in enumerate(models)} | ({} if base is None else {"base": base}))
        top = {} if base is None else {"base_model": "base"}
        self.merge_recipe(recipe_of(method, len(models), settings, **top))
        return self.merged
