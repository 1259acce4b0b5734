"""One tokenizer that knows the tokens of several."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.tokenizers.vocabulary import load_tokenizer, vocabulary_of

__all__ = ["write_union", "write_with_tokens", "write_without"]


def write_union(tokenizers: Sequence[Any], target: Path, left_out: Sequence[Container[str]] = ()) -> Any:
    """Writes the union of loaded ``tokenizers``, the first of which is changed, to ``target``; returns it.

    ``left_out`` are tokens of each to go without. The tokens of the first keep their ids; then come the other
    tokens of the rest in their order, then those that are matched in the raw text. Unlike in MergeKit, which
    adds them all as such, ordinary tokens of a fast BPE, WordPiece or WordLevel tokenizer join its model,
    together with the merges that make them: they are used where their own tokenizer would use them and
    nowhere else.

    Raises:
        CheckpointError: The files cannot be written.
    """
    tokenizer, *others = tokenizers
    skipped = [*left_out, *[()] * len(tokenizers)][1:]
    first = vocabulary_of(tokenizer)
    ordinary: dict[str, None] = {}
    added: dict[str, Any] = {}
    for other, skip in zip(others, skipped, strict=False):
        vocabulary = vocabulary_of(other)
        for token in vocabulary.ordered():
            if token not in first.ids and token not in vocabulary.added and token not in skip:
                ordinary.setdefault(token)
        for entry in other.added_tokens_decoder.values():
            if str(entry.content) not in first.ids and str(entry.content) not in skip:
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


def write_with_tokens(
    tokenizer: Any, tokens: Sequence[str], target: Path, others: Sequence[Any] = ()
) -> None:
    """Adds ``tokens`` to a loaded ``tokenizer``, and writes it to ``target``.

    They are what they are in the first of ``others`` that adds them, or else ordinary: decoding keeps them.
    """
    known: dict[str, Any] = {}
    for other in others:
        for entry in other.added_tokens_decoder.values():
            known.setdefault(str(entry.content), entry)
    tokenizer.add_tokens([known.get(token, token) for token in tokens])
    tokenizer.save_pretrained(str(target))


def write_without(tokenizer: Any, tokens: Collection[str], target: Path) -> Any:
    """Writes a loaded ``tokenizer`` without ``tokens``, the last by their ids, to ``target``; returns it.

    None where its kind does not allow that, or where it puts some of them around every text.
    """
    document = _backend(tokenizer)
    if document is None or not _strings(document.get("post_processor")).isdisjoint(tokens):
        return None
    model, before = document["model"], vocabulary_of(tokenizer).ids
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: i for token, i in model["vocab"].items() if token not in tokens}
    else:  # Unigram: pairs of a token and its score
        model["vocab"] = [pair for pair in model["vocab"] if pair[0] not in tokens]
    if model.get("merges"):
        model["merges"] = [m for m in model["merges"] if not {*_parts(m), "".join(_parts(m))} & set(tokens)]
    document["added_tokens"] = [e for e in document["added_tokens"] if e["content"] not in tokens]
    tokenizer.save_pretrained(str(target))
    try:
        (target / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        for file in (target / n for n in ("tokenizer_config.json", "special_tokens_map.json")):
            if file.is_file():
                settings = _without(json.loads(file.read_text(encoding="utf-8")), tokens)
                file.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
        (target / "added_tokens.json").unlink(missing_ok=True)
    except OSError as exception:
        raise CheckpointError(str(target), f"cannot be written ({exception.strerror})") from None
    made = load_tokenizer(target)
    after = vocabulary_of(made).ids
    first = min(before[token] for token in tokens)
    is_kept = all(after.get(token) == i for token, i in before.items() if i < first)
    return made if is_kept and not any(token in after for token in tokens) else None


def _without(settings: Any, tokens: Collection[str]) -> Any:
    """Settings of a tokenizer that speak of no added token of ``tokens``, whatever their id."""
    if isinstance(settings, list):
        return [_without(v, tokens) for v in settings if not _is_one_of(v, tokens)]
    if isinstance(settings, dict):
        left = {k: _without(v, tokens) for k, v in settings.items() if not _is_one_of(v, tokens)}
        left.pop("added_tokens_decoder", None)  # with ids that may move; tokenizer.json has them too
        return left
    return settings


def _is_one_of(value: Any, tokens: Collection[str]) -> bool:
    content = value.get("content") if isinstance(value, dict) else value
    return isinstance(content, str) and content in tokens


def _strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {s for k, v in value.items() for s in (k, *_strings(v))}
    if isinstance(value, list):
        return {s for v in value for s in _strings(v)}
    return {value} if isinstance(value, str) else set()


def _parts(merge: Any) -> list[str]:
    """Both parts of a merge of BPE, of the two ways to write one."""
    return merge if isinstance(merge, list) else str(merge).split(" ")


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
                left, right = _parts(merge)
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
