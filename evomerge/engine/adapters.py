"""LoRA adapters over models and stages: names, vocabulary and tokenizer of the adapted model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoints.adapter_files import adapter_folder
from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.derived import DerivedFiles
from evomerge.checkpoints.files import read_json
from evomerge.checkpoints.lora import adapt
from evomerge.checkpoints.lora_embeddings import Architecture, VocabularyTensors
from evomerge.engine.configuration import is_tied, text_parts
from evomerge.engine.model_names import names_in_files, tied_head
from evomerge.engine.vocabulary import embedding_tensors
from evomerge.tokenizers.vocabulary import has_tokenizer

__all__ = ["adapter_alone", "with_adapter"]

_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
"""Names of heads, for models that transformers does not know."""


def with_adapter(base: Checkpoint, folder: Path) -> Checkpoint:
    """The model ``base`` with the adapter in ``folder``.

    The tokenizer is the adapter's, if its folder holds one: it knows the tokens that were added.

    Raises:
        CheckpointError: The adapter does not fit the base, or is not supported.
    """
    folder = adapter_folder(folder)
    architecture = Architecture(
        in_files=partial(_in_files, base),
        vocabulary=partial(_vocabulary, base),
        configure=partial(_configure, base.config),
    )
    checkpoint = adapt(base, folder, architecture)
    if has_tokenizer(folder):
        checkpoint.tokenizer = folder
    return checkpoint


def adapter_alone(folder: Path) -> Checkpoint:
    """The adapter in ``folder``, for a model that is a stage of a recipe; it has a ``path`` and no tensors.

    Raises:
        CheckpointError: There is no adapter.
    """
    folder = adapter_folder(folder)
    read_json(folder / "adapter_config.json", "Is this a LoRA adapter?")
    return Checkpoint(folder, {}, {}, DerivedFiles(None, {}), folders=(folder,))


def _in_files(base: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """For names of weights, as transformers has them now or had them once, those in the base's files."""
    wanted = list(names)
    found = names_in_files(base.config, base.tensors)
    older = {once: now for now, once in names_in_files(base.config, wanted).items()}
    placed = {name: found.get(name, found.get(older.get(name, name), name)) for name in wanted}
    return {name: place for name, place in placed.items() if place in base.tensors}


def _vocabulary(base: Checkpoint) -> VocabularyTensors:
    """The tensors of the base's vocabulary, and its head if that is the embedding."""
    tensors = embedding_tensors(base)
    if is_tied(base.config) is False:
        return VocabularyTensors(tensors)
    pair, is_shared = None, False
    known = tied_head(base.config)
    if known is not None:
        head, embedding, is_shared = known
        found = names_in_files(base.config, base.tensors)
        pair = found.get(head, head), found.get(embedding, embedding)
    elif len(tensors) == 1 and not tensors[0].endswith(_HEADS):
        pair = _HEADS[0], tensors[0]
    if pair is None or pair[1] not in base.tensors or not _is_one(base, *pair):
        return VocabularyTensors(tensors)
    return VocabularyTensors(tensors, pair, is_shared)


def _is_one(base: Checkpoint, head: str, embedding: str) -> bool:
    """Whether the head is not stored, or stored as it is."""
    if head not in base.tensors:
        return True
    same = base.tensors[head].shape == base.tensors[embedding].shape
    return same and torch.equal(base.read(head), base.read(embedding))


def _configure(config: Mapping[str, Any], rows: int | None, is_untied: bool) -> dict[str, Any]:
    """``config`` for ``rows`` tokens, untied where ``is_untied``."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    parts: Sequence[Any] = text_parts(changed)
    for part in parts:
        if rows is not None and "vocab_size" in part:
            part["vocab_size"] = rows
        if is_untied and (part is changed or "tie_word_embeddings" in part):
            part["tie_word_embeddings"] = False
    return changed
