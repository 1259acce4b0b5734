"""Tensors that a recipe leaves out: what its ``ignore`` matches, and what to write there."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.errors import RecipeError

__all__ = ["ignore_hint", "unmatched", "without_ignored"]

_PATTERNS = 4
"""Patterns that a hint writes out."""


def without_ignored(model: str, checkpoint: Checkpoint, patterns: Sequence[str]) -> Checkpoint:
    """``checkpoint`` without the tensors whose names match one of ``patterns`` (those of ``fnmatch``).

    The same object where none does. What is left out is in its ``ignored``, for the model card.

    Raises:
        RecipeError: Nothing would be left.
    """
    dropped = [name for name in checkpoint.tensors if _matches(name, patterns)]
    if not dropped:
        return checkpoint
    if len(dropped) == len(checkpoint.tensors):
        raise RecipeError(
            "ignore", f"leaves out all tensors of {model}", "Patterns are those of shells: v_head.*"
        )
    view = copy.copy(checkpoint)
    gone = set(dropped)
    view.tensors = {name: info for name, info in checkpoint.tensors.items() if name not in gone}
    view.ignored = (*checkpoint.ignored, *dropped)
    return view


def unmatched(checkpoints: Iterable[Checkpoint], patterns: Sequence[str]) -> list[str]:
    """A warning for each of ``patterns`` that matches no tensor of any model."""
    names = {name for checkpoint in checkpoints for name in checkpoint.tensors}
    return [
        f"ignore: {pattern!r} matches no tensor of any model"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def ignore_hint(extra: Iterable[str], others: Iterable[str], *, roots: bool = False) -> str:
    """How to go on without the tensors ``extra``, which only some models have; nothing for many modules.

    ``others`` are the tensors that are merged. A pattern is a whole module where none of them lies in it.
    With ``roots`` only modules beside theirs are meant: what lacks inside of them is needed.
    """
    modules = {name[:i] for name in others for i in _ends(name)}
    patterns = list(dict.fromkeys(_pattern(name, modules) for name in extra))
    if roots and any("." in name and name[: name.index(".")] in modules for name in patterns):
        return ""
    if not modules or len(patterns) > _PATTERNS:  # other models rather than other heads
        return ""
    quoted = ", ".join(f'"{pattern}"' for pattern in patterns)
    return f"To leave them out, write in the recipe: ignore: [{quoted}]"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _pattern(name: str, modules: set[str]) -> str:
    """The outermost module of ``name`` that is not one of ``modules``, or the name itself."""
    module = next((name[:i] for i in _ends(name) if name[:i] not in modules), None)
    return f"{module}.*" if module is not None else name


def _ends(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == "."]
