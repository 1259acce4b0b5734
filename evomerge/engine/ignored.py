"""Tensors that a recipe leaves out of its models (``ignore: [v_head.*]``)."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.errors import CheckpointError

__all__ = ["group_by_number", "pattern_for", "unused_patterns", "without_ignored"]

_WRAPPER = re.compile(r"^(?:_orig_mod\.|module\.|base_model\.model\.|pretrained_model\.)+")
_INDEX = re.compile(r"(?<=\.)[0-9]+(?=\.|$)")
_INNER = ("model", "transformer", "language_model")
"""Modules with most of the weights: a pattern for the whole module would be too wide."""


def without_ignored(
    model: str, checkpoint: Checkpoint, patterns: Sequence[str]
) -> tuple[Checkpoint, tuple[str, ...]]:
    """``checkpoint`` without the tensors that one of ``patterns`` matches, and their names.

    Patterns are those of file names (``*``, ``?``, ``[...]``); they are compared with whole names, with and
    without the prefix of a wrapper around the model. The same object where there are none.

    Raises:
        CheckpointError: No tensor is left.
    """
    ignored = tuple(
        name
        for name in checkpoint.tensors
        if any(fnmatchcase(name, p) or fnmatchcase(_WRAPPER.sub("", name), p) for p in patterns)
    )
    if not ignored:
        return checkpoint, ()
    if len(ignored) == len(checkpoint.tensors):
        raise CheckpointError(
            model, f"ignore ({', '.join(patterns)}) leaves none of its tensors", "Write a narrower pattern."
        )
    kept = copy.copy(checkpoint)
    kept.tensors = {n: info for n, info in checkpoint.tensors.items() if n not in set(ignored)}
    return kept, ignored


def unused_patterns(patterns: Iterable[str], ignored: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of ``patterns`` that match none of the tensors that were left out of each model."""
    names = [name for found in ignored.values() for name in found]
    names += [_WRAPPER.sub("", name) for name in names]
    return [p for p in dict.fromkeys(patterns) if not any(fnmatchcase(name, p) for name in names)]


def group_by_number(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` as code in Markdown; those that differ only in numbers as one, with ``*`` there."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_INDEX.sub("*", name), []).append(name)
    return tuple(
        f"`{group[0]}`" if len(group) < 2 else f"`{pattern}` ({len(group)})"
        for pattern, group in groups.items()
    )


def pattern_for(names: Iterable[str], kept: Iterable[str]) -> tuple[str, ...]:
    """Patterns that match all of ``names`` and none of ``kept``, as short as possible."""
    rest = tuple(kept)
    patterns: list[str] = []
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        parts = name.split(".")
        wide = [".".join(parts[:depth]) + ".*" for depth in range(1, len(parts)) if parts[0] not in _INNER]
        candidates = [*wide, _INDEX.sub("*", name), name]
        patterns.append(next(c for c in candidates if c == name or not any(fnmatchcase(n, c) for n in rest)))
    return tuple(patterns)
