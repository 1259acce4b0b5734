"""Small tokenizers on disk, for tests of several rooms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

LETTERS = "abcdefgh "


def bpe(merges: Sequence[str], added: Sequence[str] = ("</s>",), chat_template: str | None = None) -> Any:
    """A BPE tokenizer over a few letters; ``merges`` such as ``a+b`` make its longer tokens."""
    pairs = [tuple(merge.split("+")) for merge in merges]
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
    for left, right in pairs:
        vocabulary.setdefault(left + right, len(vocabulary))
    return _fast(Tokenizer(models.BPE(vocab=vocabulary, merges=pairs)), added, chat_template)


def unigram(pieces: Sequence[str], added: Sequence[str] = ("</s>",)) -> Any:
    """A Unigram tokenizer of ``pieces`` besides the letters."""
    vocabulary = [(piece, -float(i)) for i, piece in enumerate([*LETTERS, *pieces])]
    return _fast(Tokenizer(models.Unigram(vocabulary, unk_id=0)), added, None)


def word_piece(words: Sequence[str], added: Sequence[str] = ("</s>",)) -> Any:
    """A WordPiece tokenizer of ``words``."""
    tokenizer = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(["[UNK]", *words])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _fast(tokenizer, added, None)


def save(tokenizer: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    return folder


def _fast(tokenizer: Tokenizer, added: Sequence[str], chat_template: str | None) -> Any:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=added[0] if added else None)
    fast.add_tokens([AddedToken(token, special=True) for token in added])
    if chat_template is not None:
        fast.chat_template = chat_template
    return fast
