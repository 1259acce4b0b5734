"""The parameters of a recipe: which exist, and the value of each for one tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from evomerge.engine.layout import Operands, OutputTensor
from evomerge.errors import RecipeError, did_you_mean
from evomerge.methods import MergeMethod, Parameter, methods
from evomerge.recipe import Parameters, Recipe, Slice, Source, filters_of, lookup

__all__ = ["bind", "check_filters", "check_names"]


def bind(method: MergeMethod, output: OutputTensor, operands: Operands) -> dict[str, Any]:
    """Each parameter of ``method`` for one tensor: a value, or a tuple with one for each source.

    Values for all models are looked up by the name of the output tensor, values for one model by the name of
    the tensor in that model: in a slice the layer numbers differ.

    Raises:
        RecipeError: A value is missing or out of bounds, or values are inconsistent.
    """
    values: dict[str, Any] = {}
    scopes = output.segment.scopes
    inputs = operands.inputs[1:] if operands.has_base else operands.inputs
    for parameter in method.parameters.values():
        if parameter.per_model:
            values[parameter.name] = tuple(
                _value(method, parameter, output, input_.tensor, (source.parameters, *scopes), source.model)
                for source, input_ in zip(operands.sources, inputs, strict=True)
            )
        else:
            values[parameter.name] = _value(method, parameter, output, output.name, scopes, None)
    try:
        method.check(values)
    except ValueError as exception:
        raise RecipeError("parameters", f"{method.name}: {exception} (tensor {output.name})") from None
    return values


def check_names(recipe: Recipe, method: MergeMethod) -> list[str]:
    """Warnings of parameters that have no effect, being those of other methods.

    Raises:
        RecipeError: No method has a parameter of that name.
    """
    known = {p for m in methods() for p in m.parameters}
    warnings = []
    for place, parameters in _scopes(recipe):
        for name in parameters:
            if name in method.parameters:
                continue
            if name not in known:
                raise RecipeError(
                    f"{place}.{name}",
                    f"{method.name} has no such parameter",
                    did_you_mean(name, method.parameters),
                )
            warnings.append(f"{place}.{name} has no effect: {method.name} has no such parameter")
    return warnings


def check_filters(recipe: Recipe, tensors: Collection[str]) -> list[str]:
    """Warnings of filters that none of ``tensors`` passes."""
    warnings = []
    for place, parameters in _scopes(recipe):
        for name, setting in parameters.items():
            for word in filters_of(setting):
                if not any(word in tensor for tensor in tensors):
                    parts = dict.fromkeys(part for tensor in tensors for part in tensor.split("."))
                    near = did_you_mean(word, [p for p in parts if not p.isdigit()])
                    warnings.append(f"{place}.{name}: the filter {word!r} matches no tensor. {near}")
    return warnings


def _value(
    method: MergeMethod,
    parameter: Parameter,
    output: OutputTensor,
    tensor: str,
    scopes: Sequence[Parameters],
    model: str | None,
) -> Any:
    whose = f" of {model!r}" if model is not None else ""
    try:
        value = lookup(parameter.name, tensor, output.position, scopes, parameter.check)
    except ValueError as exception:
        raise RecipeError(f"parameters.{parameter.name}", f"{parameter.name!r}{whose}: {exception}") from None
    if value is None:
        if parameter.required:
            is_base = model is not None and model == output.segment.base
            raise RecipeError(
                f"parameters.{parameter.name}",
                f"{method.name} needs a {parameter.name!r}{whose} for tensor {output.name}",
                f"{method.name} merges the base_model like the other models: list it with its own"
                f" {parameter.name!r}, or leave 'base_model' out."
                if is_base
                else "",
            )
        return parameter.default[0] if parameter.per_model else parameter.default
    return value


def _scopes(recipe: Recipe) -> Iterator[tuple[str, Parameters]]:
    """Every part of the recipe that has parameters, with its field."""
    yield from _scopes_of("", recipe.models, recipe.slices)
    for name, module in (recipe.modules or {}).items():
        yield from _scopes_of(f"modules.{name}.", module.models, module.slices)
        yield f"modules.{name}.parameters", module.parameters
    yield "parameters", recipe.parameters


def _scopes_of(
    place: str, models: Sequence[Source] | None, slices: Sequence[Slice] | None
) -> Iterator[tuple[str, Parameters]]:
    for i, source in enumerate(models or ()):
        yield f"{place}models[{i}].parameters", source.parameters
    for i, slice_ in enumerate(slices or ()):
        for j, source in enumerate(slice_.sources):
            yield f"{place}slices[{i}].sources[{j}].parameters", source.parameters
        yield f"{place}slices[{i}].parameters", slice_.parameters
