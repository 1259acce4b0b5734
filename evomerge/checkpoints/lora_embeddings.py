"""Adapters and the vocabulary: copies of embeddings, other numbers of rows, heads that are tied.

PEFT saves whole embeddings beside their adapters: copies of the base's weight (``base_layer``,
``original_module``), resized ones where tokens were added. On a base whose head is tied to the embedding, an
adapter of one of the two belongs to that one alone while it is trained; what PEFT then merges in place is
added to both. The model that was trained is the untied one, and so is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.lora_change import Change
from evomerge.checkpoints.lora_settings import is_listed
from evomerge.errors import CheckpointError

__all__ = ["UNKNOWN", "Architecture", "ResolvedChanges", "VocabularyTensors", "resolve_changes"]

_HINT = "Is it for another base?"


def _no_names(names: Iterable[str]) -> Mapping[str, str]:  # noqa: ARG001
    """None of ``names`` is known by another."""
    return {}


@dataclass(frozen=True)
class VocabularyTensors:
    """Which tensors have a row for each token, and the head that is tied to the embedding, if one is.

    ``tied`` is the name of the head, which the files need not have, and that of the embedding. The embedding
    ``is_shared`` where it is that of an encoder and of a decoder too.
    """

    tensors: tuple[str, ...] = ()
    tied: tuple[str, str] | None = None
    is_shared: bool = False


@dataclass(frozen=True)
class Architecture:
    """What only the base's architecture knows; asked where names alone do not suffice.

    ``in_files`` finds, for names of modules' weights, those in the base's files. ``configure`` is the
    configuration for another number of rows, or of a model whose head is not tied.
    """

    in_files: Callable[[Iterable[str]], Mapping[str, str]] = _no_names
    vocabulary: Callable[[], VocabularyTensors] = VocabularyTensors
    configure: Callable[[int | None, bool], dict[str, Any]] | None = None


UNKNOWN = Architecture()
"""An architecture of which only the names in its files are known."""


@dataclass
class ResolvedChanges:
    """The changes of a base, and its vocabulary after them.

    ``source`` is the tensor of the base that a change applies to, where it is not the one of the same name.
    """

    changes: dict[str, Change]
    source: dict[str, str] = field(default_factory=dict)
    rows: int | None = None
    """The number of rows, where it is another one than the base's."""
    untied: str | None = None
    """The head that is no longer the embedding."""


def resolve_changes(
    folder: Path,
    config: Mapping[str, Any],
    changes: dict[str, Change],
    base: Checkpoint,
    vocabulary: VocabularyTensors,
) -> ResolvedChanges:
    """``changes`` with the copies compared, embeddings resized, and the head tied or not.

    Raises:
        CheckpointError: A copy is not the base's weight, or the adapter resizes only part of the vocabulary.
    """
    resolved = ResolvedChanges(changes)
    if vocabulary.tied is not None:
        head, embedding = vocabulary.tied
        if head not in base.tensors:
            resolved.source[head] = embedding
    for name, change in changes.items():
        change.resized = _compare_copies(
            folder, name, change, base, resolved.source.get(name, name), vocabulary
        )
    if vocabulary.tied is not None:
        _tie(config, resolved, base, vocabulary)
    resolved.changes = {
        name: change
        for name, change in resolved.changes.items()
        if name == resolved.untied or not change.is_none
    }
    _count_rows(folder, resolved, base, vocabulary)
    return resolved


def _compare_copies(
    folder: Path, name: str, change: Change, base: Checkpoint, source: str, vocabulary: VocabularyTensors
) -> Tensor | None:
    """Compares the copies of the base's weight with it; one of another number of rows is returned."""
    resized = None
    for key, copy in change.copies.items():
        want = base.tensors[source].shape
        is_embedding = name in vocabulary.tensors or source in vocabulary.tensors
        if tuple(copy.shape[1:]) != want[1:] or (tuple(copy.shape) != want and not is_embedding):
            raise CheckpointError(
                str(folder), f"{key}: base {list(want)}, adapter {list(copy.shape)}: of another shape", _HINT
            )
        both = min(copy.shape[0], want[0])
        if not _is_copy(copy[:both], base.read(source)[:both]):
            raise CheckpointError(
                str(folder),
                f"{key} is a copy of the base's weight and differs from {source} in {base.path}",
                f"{_HINT} If it was meant, merge the adapter with PEFT and name the result.",
            )
        resized = copy if tuple(copy.shape) != want else resized
    return resized


def _is_copy(copy: Tensor, weight: Tensor) -> bool:
    """Whether one is the other, but for being rounded to its dtype."""
    if not copy.is_floating_point():  # codes of a quantized weight
        return False
    if torch.equal(copy.to(weight.dtype), weight) or torch.equal(weight.to(copy.dtype), copy):
        return True
    # Neither of float16 and bfloat16 holds all of the other's numbers.
    near = (copy.to(weight.dtype) == weight) | (weight.to(copy.dtype) == copy)
    return bool(near.all())


def _tie(
    config: Mapping[str, Any], resolved: ResolvedChanges, base: Checkpoint, vocabulary: VocabularyTensors
) -> None:
    """Makes the head follow the embedding, or gives it a tensor of its own."""
    head, embedding = vocabulary.tied or ("", "")
    changes = resolved.changes
    of_head, of_embedding = changes.pop(head, Change()), changes.pop(embedding, Change())
    if of_head.is_none and of_embedding.is_none:
        return
    resized = of_embedding.resized if of_embedding.resized is not None else of_head.resized
    for change in (of_head, of_embedding):
        change.resized = resized if change.resized is None else change.resized
    changes[embedding] = of_embedding
    has_own = bool(of_head.parts) or of_head.whole is not None
    if (vocabulary.is_shared and not has_own) or _is_followed(config, of_head, of_embedding, embedding):
        if head in base.tensors:
            changes[head], resolved.source[head] = of_embedding, embedding
        return
    if "rows" in of_embedding.parts and of_embedding.whole is None and of_head.whole is None:
        of_head.first = of_embedding if "rows" not in of_head.parts else None
    changes[head] = of_head
    resolved.untied = head


def _is_followed(config: Mapping[str, Any], of_head: Change, of_embedding: Change, embedding: str) -> bool:
    """Whether the head is what the embedding is, after the changes."""
    if of_head.parts or of_head.whole is not None:
        return _is_same(of_head, of_embedding)
    if not of_embedding.parts and of_embedding.whole is None:
        return True  # resized together
    if config.get("ensure_weight_tying"):
        return True
    if of_embedding.parts:  # PEFT keeps the rows of single tokens tied, and nothing else
        return "rows" in of_embedding.parts and of_embedding.whole is None
    return not is_listed(config, "modules_to_save", embedding)


def _is_same(of_head: Change, of_embedding: Change) -> bool:
    """Whether both changes have the same result on one weight."""
    pairs = [(of_head.whole, of_embedding.whole)]
    head, embedding = of_head.parts, of_embedding.parts
    if "embedding_A" in embedding and "A" in head:  # an embedding's adapter is that of its transpose
        embedding = {
            {"embedding_A": "B", "embedding_B": "A"}.get(kind, kind): part.T if part.dim() == 2 else part
            for kind, part in embedding.items()
        }
    pairs += [(head.get(kind), embedding.get(kind)) for kind in {**head, **embedding}]
    return (of_head.rows, of_head.scale) == (of_embedding.rows, of_embedding.scale) and all(
        one is None if other is None else one is not None and torch.equal(one, other) for one, other in pairs
    )


def _count_rows(
    folder: Path, resolved: ResolvedChanges, base: Checkpoint, vocabulary: VocabularyTensors
) -> None:
    """Check that all tensors of the vocabulary have one number of rows."""
    rows: dict[str, int] = {}
    for name in dict.fromkeys((*vocabulary.tensors, *(n for n in (resolved.untied,) if n is not None))):
        change = resolved.changes.get(name, Change())
        start = change.start()
        shape = base.tensors[resolved.source.get(name, name)].shape if start is None else start.shape
        count = next(iter(shape), 0)
        trained = (*change.rows, *(change.first.rows if change.first is not None else ()))
        rows[name] = max(count, max(trained, default=-1) + 1)
    counts = dict.fromkeys(rows.values())
    if len(counts) > 1:
        each = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise CheckpointError(
            str(folder),
            f"the rows of the vocabulary are not resized together: {each}",
            "Save the adapter with save_embedding_layers=True.",
        )
    before = {base.tensors[resolved.source.get(name, name)].shape[0] for name in rows}
    resolved.rows = next(iter(counts)) if rows and set(counts) != before else None
