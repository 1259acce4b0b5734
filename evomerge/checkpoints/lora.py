"""A LoRA adapter over a model, as a checkpoint of its own.

The adapted weight is W + scale * B A, computed in float32 when it is read and never written to disk (Hu et
al. 2021, arXiv:2106.09685; scale = alpha / r, or alpha / sqrt(r) if rank-stabilised, arXiv:2312.03732).
DoRA gives each of its output vectors a length of its own: m * V / |V| for V = W + scale * B A (Liu et al.
2024, arXiv:2402.09353). Convolutions of one group are products of matrices over flattened kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoints.adapter_files import Entry, read_entries
from evomerge.checkpoints.checkpoint import Checkpoint, TensorFiles, TensorInfo
from evomerge.checkpoints.derived import DerivedFiles
from evomerge.checkpoints.files import read_json
from evomerge.checkpoints.lora_change import Change
from evomerge.checkpoints.lora_embeddings import (
    UNKNOWN,
    Architecture,
    ResolvedChanges,
    VocabularyTensors,
    resolve_changes,
)
from evomerge.checkpoints.lora_settings import check_kind, scale_of, trained_rows
from evomerge.errors import CheckpointError

__all__ = ["adapt"]

_LISTED = 8
_FACTORS = [{"A", "B"}, {"embedding_A", "embedding_B"}]
_COMPLETE = [*_FACTORS, *(factors | {"magnitude"} for factors in _FACTORS), {"rows"}]
"""What there may be of a weight."""


def adapt(base: Checkpoint, folder: Path, architecture: Architecture = UNKNOWN) -> Checkpoint:
    """The model ``base`` with the PEFT adapter in ``folder``.

    Adapters name modules, which the base's files may call otherwise: ``architecture`` is asked for their
    names there if any is unknown, and for the vocabulary if the adapter changes something outside the layers.

    Raises:
        CheckpointError: The adapter is of another kind, for another base, or has parts that are not
            supported; they are named.
    """
    config = read_json(folder / "adapter_config.json", "Is this a LoRA adapter?")
    check_kind(folder, config)
    entries = read_entries(folder)
    if not entries:
        raise CheckpointError(str(folder), "the adapter holds no tensors", "Save it again.")
    names = {entry.name: _in_base(entry.name, base) for entry in entries}
    if not all(name in base.tensors for name in names.values()):
        names |= architecture.in_files([module for module, n in names.items() if n not in base.tensors])
    is_layer = all(name in base.tensors and _is_numbered(name) for name in names.values())
    vocabulary = VocabularyTensors() if is_layer else architecture.vocabulary()
    changes = _changes(folder, config, entries, _with_head(names, base, vocabulary), base, vocabulary)
    resolved = resolve_changes(folder, config, changes, base, vocabulary)
    tensors = dict(base.tensors)
    for name in resolved.changes:
        tensors[name] = _info(name, resolved, base)
    _check_shapes(folder, resolved, base, tensors, vocabulary)
    made = {
        name: partial(_read, change, base.files, resolved.source.get(name, name))
        for name, change in resolved.changes.items()
    }
    config = base.config
    if architecture.configure is not None and (resolved.rows is not None or resolved.untied is not None):
        config = architecture.configure(resolved.rows, resolved.untied is not None)
    files, folders = DerivedFiles(base.files, made), (*base.folders, folder)
    checkpoint = Checkpoint(base.path, config, tensors, files, folders=folders, tokenizer=base.tokenizer)
    checkpoint.fetch = base.fetch
    checkpoint.left_out = base.left_out
    checkpoint.warnings = (*base.warnings, *_warnings(resolved, vocabulary))
    return checkpoint


def _warnings(resolved: ResolvedChanges, vocabulary: VocabularyTensors) -> list[str]:
    if resolved.untied is None or vocabulary.tied is None:
        return []
    return [
        f"the adapter does not change {' and '.join(vocabulary.tied)} alike, which the base ties: "
        "each gets its own, and tie_word_embeddings becomes false"
    ]


def _changes(
    folder: Path,
    config: Mapping[str, Any],
    entries: Sequence[Entry],
    names: Mapping[str, str],
    base: Checkpoint,
    vocabulary: VocabularyTensors,
) -> dict[str, Change]:
    """The changes of the adapter by tensor of the base.

    Raises:
        CheckpointError: The base has no such tensor.
    """
    tied = dict([vocabulary.tied]) if vocabulary.tied is not None else {}
    changes: dict[str, Change] = {}
    unplaced: list[str] = []
    for entry in entries:
        name = names[entry.name]
        source = name if name in base.tensors else tied.get(name)
        if source is None:
            unplaced.append(entry.key)
            continue
        change = changes.setdefault(name, Change())
        # Biases that were trained are saved in place of the base's.
        is_trained = entry.name.endswith(".bias") and config.get("bias") not in (None, "none")
        if entry.kind == "copy" and not is_trained:
            change.copies[entry.key] = entry.tensor
        elif entry.kind in ("copy", "whole"):
            change.whole = _one_whole(folder, change.whole, entry)
        else:
            change.parts[entry.kind] = entry.tensor
            change.scale = scale_of(folder, config, entry.name)
            change.transposed = bool(config.get("fan_in_fan_out", False))
    if unplaced:
        shown = ", ".join(unplaced[:_LISTED])
        raise CheckpointError(
            str(folder),
            f"{len(unplaced)} tensors have no place in {base.path}: {shown}",
            "Is it for another base?",
        )
    for entry in entries:
        change = changes[names[entry.name]]
        if entry.kind == "rows":
            name = names[entry.name]
            change.rows = trained_rows(
                folder, config, entry.name, _row_count(change, base, tied.get(name, name))
            )
    return changes


def _row_count(change: Change, base: Checkpoint, source: str) -> int:
    """Rows of an embedding, as the adapter's own copies of it have them."""
    resized = [copy.shape[0] for copy in change.copies.values() if copy.dim()]
    shape = base.tensors[source].shape
    return max(resized) if resized else shape[0] if shape else 0


def _one_whole(folder: Path, known: Tensor | None, entry: Entry) -> Tensor:
    """The weight of an entry, which PEFT may save under two names."""
    if known is not None and not (known.shape == entry.tensor.shape and bool((known == entry.tensor).all())):
        raise CheckpointError(str(folder), f"has two weights for {entry.name}, and they differ ({entry.key})")
    return entry.tensor


def _with_head(names: Mapping[str, str], base: Checkpoint, vocabulary: VocabularyTensors) -> dict[str, str]:
    """``names`` with that of a tied head, which is in no file."""
    if vocabulary.tied is None or vocabulary.tied[0] in base.tensors:
        return dict(names)
    head = vocabulary.tied[0]
    spellings = (head, head.removeprefix("model."), f"model.{head}")
    return {
        module: head if name not in base.tensors and module in spellings else name
        for module, name in names.items()
    }


def _in_base(name: str, base: Checkpoint) -> str:
    """The name in the base's files, which may lack or have the prefix of the inner model."""
    if name in base.tensors:
        return name
    return next((n for n in (name.removeprefix("model."), f"model.{name}") if n in base.tensors), name)


def _is_numbered(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _read(change: Change, files: TensorFiles, source: str) -> Tensor:
    """The changed weight of the base's tensor ``source``."""
    start = change.start()
    return change.apply(files.read(source) if start is None else start)


def _info(name: str, resolved: ResolvedChanges, base: Checkpoint) -> TensorInfo:
    """The header of a changed tensor: the base's, with the rows that the vocabulary has now."""
    info = base.tensors[resolved.source.get(name, name)]
    change, start = resolved.changes[name], resolved.changes[name].start()
    rows = start.shape[0] if start is not None and start.dim() == len(info.shape) and start.dim() else None
    is_resized = rows or change.rows or (change.first is not None and change.first.rows)
    if resolved.rows is None or rows not in (None, resolved.rows) or not is_resized:
        return info
    return TensorInfo((resolved.rows, *info.shape[1:]), info.dtype)


def _check_shapes(
    folder: Path,
    resolved: ResolvedChanges,
    base: Checkpoint,
    tensors: Mapping[str, TensorInfo],
    vocabulary: VocabularyTensors,
) -> None:
    wrong, hint = [], "Is it for another base?"
    for name, change in resolved.changes.items():
        if change.parts and set(change.parts) not in ([{"bias"}] if name.endswith(".bias") else _COMPLETE):
            raise CheckpointError(
                str(folder), f"the change of {name} is not a product of two matrices, which is not supported"
            )
        want = tensors[name].shape
        found = change.shape(base.tensors[resolved.source.get(name, name)].shape, want)
        if found != want:
            wrong.append(f"{name}: base {list(want)}, adapter {list(found)}")
            if name in (*vocabulary.tensors, resolved.untied) and found[1:] == want[1:]:
                hint = "If tokens were added in training, save it with save_embedding_layers=True."
    if wrong:
        raise CheckpointError(
            str(folder),
            f"{len(wrong)} tensors have another shape: {'; '.join(wrong[:_LISTED])}",
            hint,
        )
