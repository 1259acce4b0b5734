"""One tokenizer of several: ids, and which tokens are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizer_support import bpe, save, unigram, word_piece

from evomerge.errors import CheckpointError
from evomerge.tokenizers.union import write_union, write_with_tokens, write_without
from evomerge.tokenizers.vocabulary import load_tokenizer, quick_ids, vocabulary_of


def union(tmp_path: Path, *tokenizers: Any) -> Any:
    read = [load_tokenizer(save(t, tmp_path / str(i))) for i, t in enumerate(tokenizers)]
    target = tmp_path / "union"
    target.mkdir()
    written = write_union(read, target)
    loaded = load_tokenizer(target)
    assert loaded.get_vocab() == written.get_vocab()
    return loaded


def test_the_first_keeps_its_ids_then_come_ordinary_tokens_then_added_ones(tmp_path: Path) -> None:
    first = bpe(["a+b", "c+d"])
    second = bpe(["e+f", "a+b", "g+h"], ["</s>", "<|im_start|>"])
    third = bpe(["a+h"], ["<|tool|>", "<|im_start|>"])
    ids = union(tmp_path, first, second, third).get_vocab()
    assert {t: ids[t] for t in first.get_vocab()} == first.get_vocab()
    new = sorted((t for t in ids if t not in first.get_vocab()), key=ids.__getitem__)
    assert new == ["ef", "gh", "ah", "<|im_start|>", "<|tool|>"]
    assert sorted(ids.values()) == list(range(len(ids)))


def test_new_ordinary_tokens_are_used_where_their_own_tokenizer_uses_them(tmp_path: Path) -> None:
    loaded = union(tmp_path, bpe(["a+b", "c+d"]), bpe(["a+b", "e+f", "ef+g"], ["</s>", "<|x|>"]))
    assert loaded.tokenize("abcdefg<|x|>h") == ["ab", "cd", "efg", "<|x|>", "h"]


def test_text_that_needs_no_new_token_is_cut_as_before(tmp_path: Path) -> None:
    first = bpe(["a+b", "c+d", "ab+cd"])
    before = first.tokenize("abcd cdab abab</s>")
    assert union(tmp_path, first, bpe(["e+f"])).tokenize("abcd cdab abab</s>") == before


@pytest.mark.parametrize("make", [unigram, word_piece])
def test_other_kinds_of_tokenizers_keep_the_ids_of_the_first_too(tmp_path: Path, make: Any) -> None:
    first, second = make(["ab", "cd"]), make(["ab", "ef"], ["</s>", "<|x|>"])
    loaded = union(tmp_path, first, second)
    ids = loaded.get_vocab()
    assert {t: ids[t] for t in first.get_vocab()} == first.get_vocab()
    assert set(ids) == set(first.get_vocab()) | set(second.get_vocab())
    assert loaded.tokenize("ef<|x|>")[-1] == "<|x|>"


def test_different_kinds_still_make_a_union(tmp_path: Path) -> None:
    first, second = bpe(["a+b"]), word_piece(["cdef"])
    ids = union(tmp_path, first, second).get_vocab()
    assert {t: ids[t] for t in first.get_vocab()} == first.get_vocab()
    assert "cdef" in ids


def test_tokens_that_are_added_are_matched_in_the_text(tmp_path: Path) -> None:
    folder = save(bpe(["a+b"]), tmp_path / "one")
    target = tmp_path / "two"
    target.mkdir()
    tokenizer = load_tokenizer(folder)
    write_with_tokens(tokenizer, ["<|new|>"], target)
    assert tokenizer.get_vocab()["<|new|>"] == len(vocabulary_of(load_tokenizer(folder)).ids)
    assert load_tokenizer(target).tokenize("ab<|new|>") == ["ab", "<|new|>"]


@pytest.mark.parametrize("make", [bpe, unigram, word_piece])
def test_the_last_tokens_can_be_left_out(tmp_path: Path, make: Any) -> None:
    tokenizer = make(
        ["a+b", "c+d", "ab+cd"] if make is bpe else ["ab", "cd", "abcd"], ["</s>", "<|x|>", "<|y|>"]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|y|>"]})
    loaded = load_tokenizer(save(tokenizer, tmp_path / "all"))
    ids = loaded.get_vocab()
    gone = ["abcd", "</s>", "<|x|>", "<|y|>"]
    target = tmp_path / "less"
    target.mkdir()
    made = write_without(loaded, gone, target)
    assert made.get_vocab() == {token: i for token, i in ids.items() if token not in gone}
    assert load_tokenizer(target).get_vocab() == made.get_vocab()
    assert "abcd" not in made.tokenize("abcd ab")
    assert loaded.get_vocab() == ids


def test_a_token_around_every_text_is_not_left_out(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = bpe(["a+b"], ["</s>", "<|x|>"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|x|>", special_tokens=[("<|x|>", tokenizer.convert_tokens_to_ids("<|x|>"))]
    )
    assert (
        write_without(load_tokenizer(save(tokenizer, tmp_path / "all")), ["<|x|>"], tmp_path / "less") is None
    )


def test_ids_read_from_the_file_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    for i, tokenizer in enumerate((bpe(["a+b"], ["</s>", "<|x|>"]), unigram(["ab"]), word_piece(["ab"]))):
        folder = save(tokenizer, tmp_path / str(i))
        assert quick_ids(folder) == tokenizer.get_vocab()


@pytest.mark.parametrize("damage", ["", "{", '{"model": 3}', '{"version": "1.0"}', "\x00" * 50])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, damage: str) -> None:
    folder = save(bpe(["a+b"]), tmp_path / "broken")
    (folder / "tokenizer.json").write_text(damage)
    with pytest.raises(CheckpointError, match="broken: its tokenizer cannot be loaded"):
        load_tokenizer(folder)
    assert quick_ids(folder) is None
