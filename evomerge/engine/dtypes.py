"""Dtypes of a merge: what the recipe asks for, and what the inputs of a tensor promote to."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from evomerge.checkpoints.checkpoint import Checkpoint, TensorInfo, main_dtype
from evomerge.engine.plan import Input, TensorPlan
from evomerge.errors import CheckpointError, RecipeError, did_you_mean
from evomerge.recipe import Recipe

__all__ = ["check_dtype", "common_dtype", "dtype_of", "promoted_dtype"]

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def dtype_of(recipe: Recipe) -> torch.dtype | None:
    """The dtype that ``recipe`` asks for, if it does.

    Raises:
        RecipeError: There is none of that name.
    """
    field_ = "out_dtype" if recipe.out_dtype is not None else "dtype"
    name = recipe.out_dtype if recipe.out_dtype is not None else recipe.dtype
    return None if name is None else check_dtype(field_, name)


def check_dtype(field: str, name: str) -> torch.dtype:
    """The dtype called ``name``, which stands in ``field`` of a recipe.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in _DTYPES:
        raise RecipeError(field, f"unsupported weight dtype {name!r}", did_you_mean(name, _DTYPES))
    return _DTYPES[name]


def common_dtype(name: str, inputs: Sequence[Input], infos: Sequence[TensorInfo]) -> torch.dtype:
    """The dtype that all ``inputs`` promote to in torch, so that none is rounded.

    8-bit floating-point numbers with any others give float32.

    Raises:
        CheckpointError: Some hold weights and others integers, or torch has no dtype for both.
    """
    dtypes = [info.dtype for info in infos]
    if len({dtype.is_floating_point for dtype in dtypes}) == 1:
        try:
            return functools.reduce(torch.promote_types, dtypes)
        except RuntimeError:  # torch does not promote 8-bit floats, nor all unsigned integers
            if dtypes[0].is_floating_point:
                return torch.float32
    each = ", ".join(f"{i.model} in {d}".replace("torch.", "") for i, d in zip(inputs, dtypes, strict=True))
    raise CheckpointError("models", f"{name} is stored in dtypes that do not go together: {each}")


def promoted_dtype(tensors: Sequence[TensorPlan], config_source: Checkpoint) -> torch.dtype | None:
    """The dtype of most of the output, if it is another than that of most of ``config_source``."""
    output = main_dtype(tensor.info for tensor in tensors)
    return output if output != main_dtype(config_source.tensors.values()) else None
