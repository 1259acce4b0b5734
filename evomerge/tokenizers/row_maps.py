"""Which rows of the models' embeddings become which rows of the output.

Rules for a token that a model lacks, in this order: the source that the recipe names; the only model that has
the token; the base model; the mean over the models that have it. A token that no model has is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import RecipeError, did_you_mean
from evomerge.tokenizers.vocabulary import Vocabulary

__all__ = ["Embedding", "RowMap", "RowOrigin", "TokenChoice", "row_maps"]


@dataclass(frozen=True)
class RowOrigin:
    """One row of one model's embedding."""

    model: str
    row: int


@dataclass(frozen=True)
class TokenChoice:
    """What the recipe says of one token: its row, or ``None`` for zeros; with ``force`` for every model."""

    origin: RowOrigin | None
    force: bool = False


@dataclass(frozen=True)
class Embedding:
    """A model's vocabulary and the number of rows that its embedding has."""

    vocabulary: Vocabulary
    rows: int

    def row(self, token: str) -> int | None:
        """The row of ``token``, unless the model lacks it or its embedding ends before."""
        row = self.vocabulary.ids.get(token)
        return row if row is not None and row < self.rows else None


@dataclass(frozen=True)
class RowMap:
    """How one model's embedding becomes one of ``size`` rows.

    ``own[i]`` is the model's own row for output row i, or -1. ``taken`` are rows of other models, by output
    row. ``means`` are means of rows of several models. Rows named nowhere are zero, those in ``gaps`` (no
    token has them) the mean of all others.
    """

    size: int
    own: tuple[int, ...]
    taken: Mapping[int, RowOrigin]
    means: Mapping[int, tuple[RowOrigin, ...]]
    gaps: tuple[int, ...]

    def is_identity(self, rows: int) -> bool:
        """Whether an embedding of ``rows`` rows stays as it is."""
        return self.size == rows and self.own == tuple(range(rows))


def row_maps(
    embeddings: Mapping[str, Embedding],
    output: Vocabulary,
    *,
    base: str | None,
    choices: Mapping[str, TokenChoice] | None = None,
    pad_to_multiple_of: int | None = None,
) -> dict[str, RowMap]:
    """The map of each model onto the vocabulary ``output``."""
    size = output.size
    if pad_to_multiple_of is not None:
        size += -size % pad_to_multiple_of
    used = set(output.ids.values())
    gaps = tuple(i for i in range(size) if i not in used)
    own: dict[str, list[int]] = {model: [-1] * size for model in embeddings}
    taken: dict[str, dict[int, RowOrigin]] = {model: {} for model in embeddings}
    means: dict[str, dict[int, tuple[RowOrigin, ...]]] = {model: {} for model in embeddings}
    for token in output.ordered():
        i = output.ids[token]
        owners = [(m, row) for m, e in embeddings.items() if (row := e.row(token)) is not None]
        having = dict(owners)
        choice = (choices or {}).get(token)
        for model in embeddings:
            if model in having and not (choice is not None and choice.force):
                own[model][i] = having[model]
            elif choice is not None:
                if choice.origin is not None:
                    taken[model][i] = choice.origin
            elif len(owners) == 1:
                taken[model][i] = RowOrigin(*owners[0])
            elif base is not None and base in having:
                taken[model][i] = RowOrigin(base, having[base])
            elif owners:
                means[model][i] = tuple(RowOrigin(*owner) for owner in owners)
    return {m: RowMap(size, tuple(own[m]), taken[m], means[m], gaps) for m in embeddings}


def origin_of(
    embeddings: Mapping[str, Embedding], where: str, model: str, token: str | None, row: int | None
) -> RowOrigin:
    """The row that a token source of the recipe names.

    Raises:
        RecipeError: The model is not part of the merge, or has no such token or row.
    """
    if model not in embeddings:
        raise RecipeError(where, f"{model!r} is not a model of this merge", did_you_mean(model, embeddings))
    embedding = embeddings[model]
    if token is not None:
        row = embedding.row(token)
        if row is None:
            near = did_you_mean(token, _sample(embedding.vocabulary.ordered()))
            raise RecipeError(where, f"{model!r} has no token {token!r}", near)
    if row is None or row >= embedding.rows:
        raise RecipeError(where, f"{model!r} has {embedding.rows} rows, so none is number {row}")
    return RowOrigin(model, row)


def _sample(tokens: Sequence[str]) -> Sequence[str]:
    return tokens if len(tokens) <= _SEARCHED else tokens[-_SEARCHED:]


_SEARCHED = 20_000
"""Tokens looked through for a near name; special ones are usually last."""
