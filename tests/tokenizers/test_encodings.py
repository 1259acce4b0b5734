"""Tokenizer files in the encodings of editors."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizer_support import bpe, save

from evomerge.tokenizers.vocabulary import load_tokenizer, vocabulary_of


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_tokenizer_is_read_in_utf_16_and_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    folder = save(bpe(["a+b", "ab+c"]), tmp_path / "a")
    known = vocabulary_of(load_tokenizer(folder))
    for file in folder.glob("*.json"):
        file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    assert vocabulary_of(load_tokenizer(folder)) == known
