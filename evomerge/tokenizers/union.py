"""One tokenizer that knows the tokens of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.tokenizers.vocabulary import load_tokenizer, vocabulary_of

__all__ = ["write_union", "write_with_tokens"]


def write_union(tokenizers: Sequence[Any], target: Path) -> Any:
    """Writes the union of loaded ``tokenizers``, the first of which is used up, to ``target``; it, loaded.

    The tokens of the first keep their ids; then come the other tokens of the rest in their order, then those
    that are matched in the raw text. Unlike in MergeKit, which adds them all as such, ordinary tokens of a
    fast BPE, WordPiece or WordLevel tokenizer join its model, together with the merges that make them: they
    are used where their own tokenizer would use them and nowhere else.

    Raises:
        CheckpointError: The files cannot be written.
    """
    tokenizer, *others = tokenizers
    first = vocabulary_of(tokenizer)
    ordinary: dict[str, None] = {}
    added: dict[str, Any] = {}
    for other in others:
        vocabulary = vocabulary_of(other)
        for token in vocabulary.ordered():
            if token not in first.ids and token not in vocabulary.added:
                ordinary.setdefault(token)
        for entry in other.added_tokens_decoder.values():
            if str(entry.content) not in first.ids:
                added.setdefault(str(entry.content), entry)
    new = [t for t in ordinary if t not in added]
    if new and not _joins_model(tokenizer, others, new, first.size, target):
        tokenizer.add_tokens(new)
    elif new:
        tokenizer = load_tokenizer(target)
    if added:
        tokenizer.add_tokens(list(added.values()))
    tokenizer.save_pretrained(str(target))
    return tokenizer


def write_with_tokens(tokenizer: Any, tokens: Sequence[str], target: Path) -> None:
    """Adds ``tokens``, as special ones, to a loaded ``tokenizer``, and writes it to ``target``."""
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.save_pretrained(str(target))


def _joins_model(tokenizer: Any, others: Sequence[Any], new: Sequence[str], start: int, target: Path) -> bool:
    """Writes ``tokenizer`` with the tokens ``new`` in its model; False where its kind does not allow that."""
    document = _backend(tokenizer)
    model = document.get("model", {}) if document else {}
    if model.get("type") not in ("BPE", "WordPiece", "WordLevel") or not isinstance(model["vocab"], dict):
        return False
    models = [(_backend(other) or {}).get("model", {}) for other in others]
    if any(m.get("type") != model["type"] for m in models):
        return False
    # On loading, an added token keeps its id only if the model knows it: else it moves behind the new ones.
    model["vocab"] |= {str(t.content): i for i, t in tokenizer.added_tokens_decoder.items()}
    model["vocab"] |= {token: start + i for i, token in enumerate(new)}
    if model["type"] == "BPE":
        known = model["merges"]
        made = dict.fromkeys(new)
        for other in models:
            for merge in other["merges"]:
                left, right = merge if isinstance(merge, list) else merge.split(" ")
                token = left + right
                if token in made and left in model["vocab"] and right in model["vocab"]:
                    pair = [left, right] if not known or isinstance(known[0], list) else f"{left} {right}"
                    known.append(pair)
        model["merges"] = _unique(known)
    tokenizer.save_pretrained(str(target))
    try:
        (target / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    except OSError as exception:
        raise CheckpointError(str(target), f"cannot be written ({exception.strerror})") from None
    return True


def _unique(merges: list[Any]) -> list[Any]:
    """Each merge once, at its first place: that is its rank."""
    first: dict[str, Any] = {}
    for merge in merges:
        first.setdefault(json.dumps(merge), merge)
    return list(first.values())


def _backend(tokenizer: Any) -> Any:
    """The JSON of a fast tokenizer, or None."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str()) if backend is not None else None
