"""The models of a merge as checkpoints of one spelling, with embeddings tied in all of them or in none."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.rename import TensorOrigin, rename_tensors
from evomerge.engine.configuration import is_tied
from evomerge.engine.model_names import ModelNames
from evomerge.engine.optional_tensors import is_embedding, is_left_out
from evomerge.engine.spelling import CanonicalTensors, is_stacked, match_names, unwrap
from evomerge.engine.ties import Ties
from evomerge.errors import CheckpointError

__all__ = ["UnifiedModels", "unify"]

_LISTED = 8


@dataclass(frozen=True)
class UnifiedModels:
    """Checkpoints whose tensors are named as in the config source, and warnings.

    ``unused`` are names of tensors that they no longer have.
    """

    checkpoints: Mapping[str, Checkpoint]
    warnings: tuple[str, ...] = ()
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def unify(
    checkpoints: Mapping[str, Checkpoint], config_source: str, *, drop_equal: bool = False
) -> UnifiedModels:
    """``checkpoints`` in the spelling of ``config_source``; the same objects where nothing has to change.

    Experts that a file stacks, and transformers saves one by one, are one by one in the result, so that
    methods which look at a tensor as a whole give the same numbers for both. ``drop_equal`` is as for
    ``Ties.settle``.

    Raises:
        CheckpointError: A model holds the factors of an adapter beside its weights.
    """
    plain, warnings = {}, []
    for model, checkpoint in checkpoints.items():
        plain[model], warning = unwrap(model, checkpoint)
        warnings += [warning] if warning is not None else []
    if not _may_differ(plain):
        return UnifiedModels(plain, tuple(warnings))
    try:
        names = ModelNames.of(plain[config_source].config)
    except CheckpointError:  # the models are compared by their names as they are
        return UnifiedModels(plain, tuple(warnings))
    models = {model: CanonicalTensors(checkpoint, names) for model, checkpoint in plain.items()}
    ties = Ties(models, config_source)
    is_changed = ties.settle(drop_equal=drop_equal)
    unused = _without_unused(models, names)
    warnings += [_unused_warning(model, dropped) for model, dropped in unused.items()]
    warnings += [
        f"{model}: all tensors stand in the module {own.wrapper}, which is taken away"
        for model, own in models.items()
        if own.wrapper
    ]
    is_changed |= any(own.is_split or own.wrapper for own in models.values())
    if not is_changed and _are_equal(plain):
        return UnifiedModels(plain, tuple(warnings), unused)
    lead = models[config_source]
    _save_names(lead, names)
    views = {model: _view(lead, other) for model, other in models.items()}
    if ties.config is not plain[config_source].config:
        views[config_source].config = dict(ties.config)
    return UnifiedModels(views, (*warnings, *ties.warnings), unused)


def _without_unused(models: Mapping[str, CanonicalTensors], names: ModelNames) -> dict[str, tuple[str, ...]]:
    """Drops tensors that only some models have and that the model class ignores; their names, by model."""
    unused: dict[str, tuple[str, ...]] = {}
    stored = {model: own.checkpoint for model, own in models.items()}
    for model, own in models.items():
        dropped = [
            name
            for name in own.unknown
            if names.does_without(name)
            and not all(name in other.unknown for other in models.values())
            and not is_left_out(name, stored, in_layers=True)  # which needs no warning
        ]
        if dropped:
            own.unknown = [name for name in own.unknown if name not in set(dropped)]
            unused[model] = tuple(dropped)
    return unused


def _unused_warning(model: str, dropped: Sequence[str]) -> str:
    more = f" and {len(dropped) - _LISTED} more" if len(dropped) > _LISTED else ""
    return (
        f"{model}: left out, as not all models have them and transformers does not load them: "
        f"{', '.join(dropped[:_LISTED])}{more}"
    )


def _may_differ(checkpoints: Mapping[str, Checkpoint]) -> bool:
    """Whether transformers must be asked, which takes a second."""
    if not _are_equal(checkpoints):
        return True
    return any(is_stacked(c) or _has_second_head(c) or _has_odd_root(c) for c in checkpoints.values())


def _are_equal(checkpoints: Mapping[str, Checkpoint]) -> bool:
    return len({frozenset(c.tensors) for c in checkpoints.values()}) == 1


def _has_odd_root(checkpoint: Checkpoint) -> bool:
    """Whether all its tensors are in one module with an unusual name."""
    roots = {name.split(".", 1)[0] for name in checkpoint.tensors if "." in name}
    return len(roots) == 1 and not roots <= {"model", "transformer"}


def _has_second_head(checkpoint: Checkpoint) -> bool:
    """Whether it stores several embeddings of equal shape, and does not say that they are untied."""
    if is_tied(checkpoint.config) is False:
        return False
    shapes = [i.shape for n, i in checkpoint.tensors.items() if is_embedding(n) and len(i.shape) == 2]
    return len(set(shapes)) < len(shapes)


def _save_names(lead: CanonicalTensors, names: ModelNames) -> None:
    """Gives ``lead`` the names that transformers saves, where its file has the names of weights in memory."""
    if not lead.is_split:
        return
    saved = {c: names.saved_name(c) if own == c else own for c, own in lead.own.items()}
    loaded = names.load_targets(saved.values())
    if all(loaded[name].canonical == canonical for canonical, name in saved.items()):
        lead.own.update(saved)


def _view(lead: CanonicalTensors, other: CanonicalTensors) -> Checkpoint:
    names = match_names(lead, other)
    if (
        all(o.part is None and o.name == names[c] for c, o in other.origins.items())
        and len(names) == len(other.checkpoint.tensors)
        and all(names[n] == n for n in other.unknown)
    ):
        return copy.copy(other.checkpoint)
    origins = {names[c]: origin for c, origin in other.origins.items()}
    infos = {names[c]: info for c, info in other.infos.items()}
    for name in other.unknown:
        origins[names[name]] = TensorOrigin(name)
        infos[names[name]] = other.checkpoint.tensors[name]
    return rename_tensors(other.checkpoint, origins, infos)
