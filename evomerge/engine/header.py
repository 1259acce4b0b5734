"""What a merge will write, compared with what transformers loads, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from evomerge.checkpoints.checkpoint import TensorInfo
from evomerge.engine.live_model import check_loads
from evomerge.engine.loading import LoadReport, load
from evomerge.engine.model_names import parse_config
from evomerge.engine.plan import MergePlan
from evomerge.engine.stored import is_embedding
from evomerge.errors import CheckpointError

__all__ = ["check_header"]

_LISTED = 8
_NUMBER = re.compile(r"(^|\.)[0-9]+\.")
"""In names of what stands in layers."""
_HINT = (
    "The output would start with random weights in their place. Are the names of all inputs those of a "
    "wrapper, or is config.json of another model?"
)


def check_header(plan: MergePlan, *, is_stack: bool, ignored: Collection[str] = ()) -> str | None:
    """Has transformers load the output of ``plan`` without its weights; a warning where it cannot tell.

    What is wrong with the model that gives the configuration, too, is only warned of, unless weights of its
    layers are missing. ``ignored`` are those of its tensors that are left out on purpose.
    Takes some tenths of a second for usual models.

    Raises:
        CheckpointError: Tensors are missing, have another shape or have no use.
        RecipeError: A layer-stack (``is_stack``) cannot be loaded.
    """
    if is_stack:  # another configuration than the models had: not every one can be told
        return check_loads(plan)
    try:
        found = _report(plan.config, {t.name: t.info for t in plan.tensors})
    except CheckpointError as exception:
        return f"whether transformers can load the result is not known: {exception.reason}"
    if found == LoadReport((), (), ()):
        return None
    donor = plan.checkpoints[plan.donor]
    kept = {name: info for name, info in donor.tensors.items() if name not in ignored}
    try:
        whole = _report(donor.config, donor.tensors)
        known = _report(donor.config, kept) if len(kept) < len(donor.tensors) else whole
    except CheckpointError:
        whole = known = LoadReport((), (), ())
    _refuse(plan, "weights would be missing", _beyond(found.missing, known.missing), _HINT)
    _refuse(plan, "weights would be of another shape", _beyond(found.unequal, known.unequal))
    _refuse(plan, "tensors would have no use", _beyond(found.unused, known.unused))
    inner = [n for n in found.missing if n in whole.missing and (is_embedding(n) or _NUMBER.search(n))]
    _refuse(plan, "weights would be missing", inner, _HINT)
    wrong = _listed([*found.missing, *found.unequal])
    return (
        f"like {plan.donor}, the result lacks weights that transformers expects: {wrong}" if wrong else None
    )


def _beyond(found: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name in found if name not in set(known)]


def _refuse(plan: MergePlan, what: str, names: Sequence[str], hint: str = "") -> None:
    if names:
        raise CheckpointError(
            plan.donor, f"the result would not load with its config.json; {what}: {_listed(names)}", hint
        )


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "; ".join(names[:_LISTED]) + more


def _report(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> LoadReport:
    parsed, model_class = parse_config(config)
    empty = {n: torch.empty(i.shape, dtype=i.dtype, device="meta") for n, i in tensors.items()}
    return load(parsed, model_class, empty, torch.float32, torch.device("meta"))[1]
