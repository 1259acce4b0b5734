"""Makes the plan of a recipe from the headers of its models; everything that can be wrong is found here."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evomerge.checkpoints.checkpoint import Checkpoint, LeftOut, TensorInfo, dtype_name
from evomerge.engine.compatibility import check_modules, check_same_tensors, check_shapes, unused_tensors
from evomerge.engine.configuration import LayerOrigin, layer_count, resize, resize_module
from evomerge.engine.dtypes import common_dtype, dtype_of, promoted_dtype
from evomerge.engine.layer_kinds import check_layer_kinds, with_lists
from evomerge.engine.layout import Layout, Operands, OutputTensor, Segment, first_layer
from evomerge.engine.parameters import bind, check_filters, check_names
from evomerge.engine.plan import Input, MergePlan, TensorPlan
from evomerge.engine.vocabulary import Alignment
from evomerge.errors import RecipeError
from evomerge.methods import MergeMethod, get_method
from evomerge.recipe import Recipe

__all__ = ["plan_merge"]


def plan_merge(recipe: Recipe, alignment: Alignment) -> MergePlan:
    """The plan of ``recipe`` over checkpoints of one vocabulary; a pure function of headers.

    Raises:
        RecipeError: An unknown method or parameter, a value out of bounds, layers that do not exist.
        CheckpointError: Models that do not fit together; every offending tensor is listed.
    """
    method, dtype = get_method(recipe.merge_method), dtype_of(recipe)
    layout = Layout(recipe, alignment.checkpoints, method)
    warnings = [*recipe.warnings, *alignment.warnings, *check_names(recipe, method)]
    check_modules(layout)
    outputs = list(layout.output_tensors())
    names = [output.name for output in outputs]
    operands = [output.operands(method) for output in outputs]
    inputs_of = dict(zip(names, (o.inputs for o in operands), strict=True))
    check_same_tensors(layout, inputs_of)
    check_shapes(inputs_of.items(), layout.checkpoints)
    of_sources = dict.fromkeys(i.tensor for o in operands for i in o.inputs)
    warnings += check_filters(recipe, tuple(dict.fromkeys([*names, *of_sources])))
    tensors = tuple(
        _tensor(output, of_output, method, dtype, layout.checkpoints)
        for output, of_output in zip(outputs, operands, strict=True)
    )
    return MergePlan(
        tensors,
        _config(
            layout,
            dtype if dtype is not None else promoted_dtype(tensors, layout.checkpoints[layout.config_source]),
        ),
        layout.config_source,
        alignment.checkpoints,
        alignment.tokenizer,
        alignment.renumber,
        tuple(warnings),
        alignment.left_out.join(LeftOut(unused=unused_tensors(layout, operands))),
    )


def _tensor(
    output: OutputTensor,
    operands: Operands,
    method: MergeMethod,
    dtype: torch.dtype | None,
    checkpoints: Mapping[str, Checkpoint],
) -> TensorPlan:
    """One tensor of the plan, in ``dtype`` or, where that is not given, in the one its inputs promote to."""
    infos = [checkpoints[i.model].tensors[i.tensor] for i in operands.inputs]
    info = infos[0]
    common = common_dtype(output.name, operands.inputs, infos)
    if not common.is_floating_point:  # copied if they are equal, which is checked when they are read
        return TensorPlan(output.name, info.shape, common, "passthrough", operands.inputs, has_base=False)
    output_dtype = dtype if dtype is not None else common
    (low, high), given = method.models, len(operands.sources)
    if operands.has_base and given == 0 and (low, high) == (1, None):  # there are no task vectors to add
        return _copy(output.name, info, operands.inputs[0], output_dtype)
    if given < low or (high is not None and given > high):
        besides = " besides the base" if operands.has_base else ""
        count = f"exactly {low}" if low == high else f"at least {low}"
        raise RecipeError("models", f"{method.name} merges {count} model(s){besides}, the recipe has {given}")
    return TensorPlan(
        output.name,
        info.shape,
        output_dtype,
        method.name,
        operands.inputs,
        operands.has_base,
        bind(method, output, operands),
    )


def _copy(name: str, info: TensorInfo, source: Input, dtype: torch.dtype) -> TensorPlan:
    """The tensor of one model as it is."""
    return TensorPlan(
        name, info.shape, dtype, "passthrough", (source,), has_base=False, parameters={"scale": (1.0,)}
    )


def _config(layout: Layout, dtype: torch.dtype | None) -> dict[str, Any]:
    """The config source's configuration, with the dtype and the layers of the output."""
    config = copy.deepcopy(layout.checkpoints[layout.config_source].config)
    if dtype is not None:
        for section in (config, *(v for v in config.values() if isinstance(v, dict))):
            for key in ("dtype", "torch_dtype"):
                if key in section:
                    section[key] = dtype_name(dtype)
        if "dtype" not in config and "torch_dtype" not in config:
            config["dtype"] = dtype_name(dtype)
    for module in layout.modules:
        if module.slices is None:
            continue
        segments = layout.segments[module]
        old, new = layout.depth(module, layout.config_source), sum(s.layers for s in segments)
        if layout.sliced(module, layout.config_source) == layout.stacks[layout.config_source].sliced:
            _resize(config, layout, segments)
        elif old != new and not resize_module(config, old, new):
            raise RecipeError(
                f"{module.place}slices",
                f"{new} layers in place of {old}, and config.json does not say where they are counted",
                "Keep the number of layers of this module.",
            )
    return config


def _resize(config: dict[str, Any], layout: Layout, segments: Sequence[Segment]) -> None:
    """The configuration of the new run of layers: their count, and all that is said layer by layer.

    Raises:
        RecipeError: A layer would be of another kind than in its model, and the configuration cannot say so.
    """
    stacks = layout.stacks[layout.config_source]
    depth = layer_count(config) or stacks.depth
    origins = [
        LayerOrigin(with_lists(layout.checkpoints[model].config, layout.depth(s.module, model)), start + k)
        for s in segments
        for model, start in [(s.sources[0].model, first_layer(s.sources[0]))]
        for k in range(s.layers)
    ]
    config.update(with_lists(config, depth))
    resize(config, depth, origins, has_encoder=stacks.has_encoder)
    check_layer_kinds(config, origins)
