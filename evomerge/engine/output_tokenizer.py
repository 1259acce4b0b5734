"""The tokenizer of a merge, made from those of its models as the tokenizer section says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.tokenizer_folders import TokenizerFolder
from evomerge.recipe import Recipe, TokenizerSpec
from evomerge.tokenizers.union import write_union, write_with_tokens, write_without
from evomerge.tokenizers.vocabulary import Vocabulary, load_tokenizer, vocabulary_of

__all__ = ["OutputTokenizer", "output_tokenizer"]

_LISTED = 8


@dataclass(frozen=True)
class OutputTokenizer:
    """The vocabulary of the output, the folder with its tokenizer, and the vocabulary of each model."""

    vocabulary: Vocabulary
    folder: TokenizerFolder
    of_models: Mapping[str, Vocabulary]
    warnings: tuple[str, ...]


def output_tokenizer(
    recipe: Recipe,
    spec: TokenizerSpec,
    checkpoints: Mapping[str, Checkpoint],
    config_source: str,
    rows_of: Callable[[Checkpoint], int],
) -> OutputTokenizer:
    """The tokenizer that ``spec`` asks for; ``rows_of`` counts the rows of a model's embedding.

    Tokens beyond those rows are left out, as in MergeKit: they have no embedding. Tokens with a role
    (``pad_token``) and those that ``spec`` names are kept.

    Raises:
        CheckpointError: A tokenizer is damaged.
    """
    # Reading a tokenizer takes up to seconds: each is read once, and released when this returns.
    tokenizers = {f: load_tokenizer(f) for f in dict.fromkeys(c.tokenizer for c in checkpoints.values())}
    of_folders = {folder: vocabulary_of(tokenizer) for folder, tokenizer in tokenizers.items()}
    of_models = {model: of_folders[c.tokenizer] for model, c in checkpoints.items()}
    is_union = spec.source == "union"
    models = dict.fromkeys((config_source, *recipe.merged()) if is_union else ())
    source = config_source if spec.source in ("union", "base") else spec.source
    places = dict.fromkeys((checkpoints[source].tokenizer, *(checkpoints[m].tokenizer for m in models)))
    unused = {place: _beyond(place, of_folders[place], spec, checkpoints, rows_of) for place in places}
    first, *others = places
    folder, tokenizer = TokenizerFolder(first), tokenizers[first]
    if unused[first]:
        own = TokenizerFolder()
        made = write_without(tokenizer, unused[first], own.path)
        if made is not None:
            folder, tokenizer = own, made
    if is_union:
        folder = TokenizerFolder()
        skipped = [unused[place] for place in places]
        tokenizer = write_union([tokenizer, *(tokenizers[p] for p in others)], folder.path, skipped)
    vocabulary = vocabulary_of(tokenizer)
    missing = [token for token in spec.tokens if token not in vocabulary.ids]
    if missing:
        folder = folder if folder.is_own else TokenizerFolder()
        write_with_tokens(tokenizer, missing, folder.path, list(tokenizers.values()))
        vocabulary = vocabulary_of(tokenizer)
    gone = list(dict.fromkeys(t for place in places for t in unused[place] if t not in vocabulary.ids))
    shown = ", ".join(repr(token) for token in gone[:_LISTED])
    warning = f"{len(gone)} tokens are beyond the rows of the embeddings and left out: {shown}"
    return OutputTokenizer(vocabulary, folder, of_models, (warning,) if gone else ())


def _beyond(
    place: Path,
    vocabulary: Vocabulary,
    spec: TokenizerSpec,
    checkpoints: Mapping[str, Checkpoint],
    rows_of: Callable[[Checkpoint], int],
) -> list[str]:
    """The tokens of a tokenizer that no model with it has a row for, by id."""
    rows = max(rows_of(c) for c in checkpoints.values() if c.tokenizer == place)
    kept: set[Any] = {*vocabulary.special.values()}
    return [
        token
        for token in vocabulary.ordered()
        if 0 < rows <= vocabulary.ids[token]
        and vocabulary.ids[token] not in kept
        and token not in spec.tokens
    ]
