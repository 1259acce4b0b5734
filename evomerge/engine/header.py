"""Checks that transformers would load the output of a merge, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import TensorInfo
from evomerge.engine.loading import LoadReport, listed, load, load_complete
from evomerge.engine.model_names import parse_config
from evomerge.engine.optional_tensors import is_embedding
from evomerge.engine.plan import MergePlan
from evomerge.errors import CheckpointError, RecipeError

__all__ = ["check_header", "check_unused", "refused_stack"]

_NUMBER = re.compile(r"(^|\.)[0-9]+\.")
"""In names of what stands in layers."""
_STACK_HINT = "Slices that keep the order of the different kinds of layers may work."
_META = torch.device("meta")
_HINT = (
    "The output would start with random weights in their place. Are the names of all inputs those of a "
    "wrapper, or is config.json of another model?"
)


def check_header(plan: MergePlan, *, is_stack: bool, ignored: Collection[str] = ()) -> str | None:
    """Has transformers load the output of ``plan`` without its weights; a warning where it cannot.

    Faults that the config source has as well are only warned of, unless weights of its layers are missing.
    ``ignored`` are those of its tensors that are left out on purpose.
    Takes some tenths of a second for usual models.

    Raises:
        CheckpointError: Tensors are missing, have another shape or have no use.
        RecipeError: A layer-stack (``is_stack``) cannot be loaded.
    """
    if is_stack:  # another configuration than the models had: not every one can be told
        return _check_stack(plan)
    try:
        found = _report(plan.config, {t.name: t.info for t in plan.tensors})
    except CheckpointError as exception:
        return f"whether transformers can load the result is not known: {exception.reason}"
    if found == LoadReport((), (), ()):
        return None
    config_source = plan.checkpoints[plan.config_source]
    kept = {name: info for name, info in config_source.tensors.items() if name not in ignored}
    try:
        whole = _report(config_source.config, config_source.tensors)
        known = _report(config_source.config, kept) if len(kept) < len(config_source.tensors) else whole
    except CheckpointError:
        whole = known = LoadReport((), (), ())
    _refuse(plan, "weights would be missing", _beyond(found.missing, known.missing), _HINT)
    _refuse(plan, "weights would be of another shape", _beyond(found.unequal, known.unequal))
    _refuse(plan, "tensors would have no use", _beyond(found.unused, known.unused))
    inner = [n for n in found.missing if n in whole.missing and (is_embedding(n) or _NUMBER.search(n))]
    _refuse(plan, "weights would be missing", inner, _HINT)
    wrong = listed([*found.missing, *found.unequal])
    return (
        f"like {plan.config_source}, the result lacks weights that transformers expects: {wrong}"
        if wrong
        else None
    )


def _check_stack(plan: MergePlan) -> str | None:
    try:
        config, model_class = parse_config(plan.config)
    except CheckpointError as exception:
        return f"whether transformers can load the layers is not known: {exception.reason}"
    with refused_stack():
        tensors = _empty({t.name: t.info for t in plan.tensors})
        _, unused = load_complete(config, model_class, tensors, torch.float32, _META, plan.config_source)
        check_unused(plan, unused)
    return None


@contextmanager
def refused_stack() -> Iterator[None]:
    """Within, errors of loading a model become errors of the recipe's slices.

    Raises:
        RecipeError: The configuration cannot say what the layers are: weights would be missing, left over
            or of another shape.
    """
    try:
        yield
    except CheckpointError as exception:
        reason = f"cannot be stacked like this: {exception.where} {exception.reason}"
        raise RecipeError("slices", reason, _STACK_HINT) from None


def check_unused(plan: MergePlan, unused: Sequence[str]) -> None:
    """Check that what a layer-stack does not use (``unused``) is what its config source does not use.

    Raises:
        CheckpointError: Layers would be left out, or the config source itself does not load.
    """
    if not unused:
        return
    config_source = plan.checkpoints[plan.config_source]
    config, model_class = parse_config(config_source.config)
    tensors = _empty(config_source.tensors)
    _, whole = load_complete(config, model_class, tensors, torch.float32, _META, plan.config_source)
    extra = [name for name in unused if name not in whole]
    if extra:
        raise CheckpointError(
            plan.config_source, f"its configuration cannot describe these layers: {listed(extra)}"
        )


def _beyond(found: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name in found if name not in set(known)]


def _refuse(plan: MergePlan, what: str, names: Sequence[str], hint: str = "") -> None:
    if names:
        raise CheckpointError(
            plan.config_source,
            f"the result would not load with its config.json; {what}: {listed(names)}",
            hint,
        )


def _report(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> LoadReport:
    parsed, model_class = parse_config(config)
    return load(parsed, model_class, _empty(tensors), torch.float32, _META)[1]


def _empty(tensors: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    return {n: torch.empty(i.shape, dtype=i.dtype, device=_META) for n, i in tensors.items()}
