"""The tokenizer folders of the models of a merge, and warnings where vocabularies differ."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.configuration import text_parts
from evomerge.tokenizers.vocabulary import has_tokenizer, quick_ids

__all__ = ["TokenizerFolder", "lend_tokenizers", "vocabulary_warnings"]


class TokenizerFolder:
    """A folder with the files of a tokenizer; a temporary one is removed with this object."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else Path(tempfile.mkdtemp(prefix="evomerge-tokenizer-"))
        self.is_own = path is None
        if self.is_own:
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def lend_tokenizers(
    checkpoints: Mapping[str, Checkpoint], config_source: str
) -> tuple[Mapping[str, Checkpoint], tuple[str, ...]]:
    """``checkpoints``, where those without tokenizer files get that of ``config_source``; and warnings.

    Where the config source has none either, it is that of the first model that has one. Where no model has
    one, all stay as they are.
    """
    having = [model for model, c in checkpoints.items() if has_tokenizer(c.tokenizer)]
    lacking = [model for model in checkpoints if model not in having]
    if not lacking:
        return checkpoints, ()
    if not having:
        has_text = any("vocab_size" in part for part in text_parts(checkpoints[config_source].config))
        names = ", ".join(checkpoints)
        return checkpoints, (
            f"no tokenizer files in {names}: the output has none either",
        ) if has_text else ()
    lender = config_source if config_source in having else having[0]
    lent = {
        model: c if model in having else c.with_tokenizer(checkpoints[lender].tokenizer)
        for model, c in checkpoints.items()
    }
    return lent, (f"no tokenizer files in {', '.join(lacking)}: the tokenizer of {lender} is taken instead",)


def vocabulary_warnings(checkpoints: Mapping[str, Checkpoint]) -> tuple[str, ...]:
    """Warnings where vocabularies differ and the recipe has no tokenizer section."""
    vocabularies: dict[str, dict[str, int]] = {}
    texts: dict[bytes, dict[str, int] | None] = {}
    for model, checkpoint in checkpoints.items():
        file = checkpoint.tokenizer / "tokenizer.json"
        if not file.is_file():
            continue
        text = file.read_bytes()
        if text not in texts:
            texts[text] = quick_ids(checkpoint.tokenizer)
        ids = texts[text]
        if ids is not None:
            vocabularies[model] = ids
    if len(vocabularies) < 2:
        return ()
    (first, ids), *rest = vocabularies.items()
    warnings = []
    for model, other in rest:
        if other is ids or other == ids:
            continue
        moved = sum(1 for token, i in other.items() if ids.get(token, i) != i)
        new = sum(1 for token in other if token not in ids)
        lost = sum(1 for token in ids if token not in other)
        warnings.append(
            f"the vocabulary of {model} is not that of {first} ({new} tokens more, {lost} fewer, {moved} in "
            "other places): rows of different tokens will be merged. A tokenizer section puts them in order"
        )
    return tuple(warnings)
