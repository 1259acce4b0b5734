"""Which row becomes which: every rule for a token that a model lacks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.tokenizers.row_maps import Embedding, RowOrigin, TokenChoice, origin_of, row_maps
from evomerge.tokenizers.vocabulary import Vocabulary


def embedding(tokens: str, rows: int | None = None) -> Embedding:
    return Embedding(Vocabulary({t: i for i, t in enumerate(tokens)}), rows or len(tokens))


def test_a_model_keeps_its_own_rows_in_their_new_places() -> None:
    maps = row_maps({"m": embedding("abc")}, Vocabulary({"c": 0, "a": 1, "b": 2}), base=None)
    assert maps["m"].own == (2, 0, 1)
    assert not maps["m"].is_identity(3)


def test_a_token_that_one_model_has_is_taken_from_it() -> None:
    embeddings = {"base": embedding("ab"), "one": embedding("abx")}
    maps = row_maps(embeddings, Vocabulary({"a": 0, "b": 1, "x": 2}), base="base")
    assert maps["base"].taken == {2: RowOrigin("one", 2)}
    assert maps["base"].own == (0, 1, -1)
    assert maps["one"].is_identity(3)


def test_a_token_that_several_have_is_taken_from_the_base_if_it_has_it() -> None:
    embeddings = {"base": embedding("ax"), "one": embedding("xa"), "two": embedding("a")}
    maps = row_maps(embeddings, Vocabulary({"a": 0, "x": 1}), base="base")
    assert maps["two"].taken == {1: RowOrigin("base", 1)}


def test_otherwise_it_is_the_mean_of_those_that_have_it() -> None:
    embeddings = {"base": embedding("a"), "one": embedding("ax"), "two": embedding("xa")}
    maps = row_maps(embeddings, Vocabulary({"a": 0, "x": 1}), base="base")
    assert maps["base"].means == {1: (RowOrigin("one", 1), RowOrigin("two", 0))}


def test_a_token_nobody_has_is_zero() -> None:
    maps = row_maps({"m": embedding("a")}, Vocabulary({"a": 0, "new": 1}), base=None)
    assert (maps["m"].own, maps["m"].taken, maps["m"].means) == ((0, -1), {}, {})


def test_a_token_beyond_the_end_of_the_embedding_counts_as_missing() -> None:
    embeddings = {"short": embedding("abx", rows=2), "long": embedding("abx")}
    maps = row_maps(embeddings, Vocabulary({"a": 0, "b": 1, "x": 2}), base="short")
    assert maps["short"].taken == {2: RowOrigin("long", 2)}


def test_a_choice_serves_models_without_the_token_and_with_force_all() -> None:
    embeddings = {"one": embedding("ax"), "two": embedding("a"), "three": embedding("ax")}
    output = Vocabulary({"a": 0, "x": 1})
    choice = {"x": TokenChoice(RowOrigin("three", 1))}
    maps = row_maps(embeddings, output, base=None, choices=choice)
    assert maps["one"].own == (0, 1)
    assert maps["two"].taken == {1: RowOrigin("three", 1)}
    forced = row_maps(
        embeddings, output, base=None, choices={"x": TokenChoice(RowOrigin("three", 1), force=True)}
    )
    assert all(m.taken == {1: RowOrigin("three", 1)} and m.own == (0, -1) for m in forced.values())
    zero = row_maps(embeddings, output, base=None, choices={"x": TokenChoice(None, force=True)})
    assert all(m.taken == {} and m.own == (0, -1) for m in zero.values())


def test_padding_and_holes_in_the_ids_are_gaps() -> None:
    maps = row_maps({"m": embedding("ab")}, Vocabulary({"a": 0, "b": 3}), base=None, pad_to_multiple_of=8)
    assert maps["m"].size == 8
    assert maps["m"].gaps == (1, 2, 4, 5, 6, 7)


def test_a_source_that_does_not_exist_is_an_error_with_a_near_name() -> None:
    embeddings = {"base": embedding("ab"), "chat": embedding("ab")}
    with pytest.raises(RecipeError, match=r"here: 'chta' is not a model of this merge\. Did you mean 'chat'"):
        origin_of(embeddings, "here", "chta", "a", None)
    with pytest.raises(RecipeError, match="'chat' has no token 'z'"):
        origin_of(embeddings, "here", "chat", "z", None)
    with pytest.raises(RecipeError, match="'chat' has 2 rows, so none is number 2"):
        origin_of(embeddings, "here", "chat", None, 2)


@given(
    st.lists(st.text("abcdefg", min_size=1, max_size=1), unique=True),
    st.lists(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=7), min_size=1, max_size=4),
)
def test_each_output_row_has_exactly_one_rule(output: list[str], models: list[list[str]]) -> None:
    embeddings = {str(i): embedding("".join(m), rows=max(1, len(m))) for i, m in enumerate(models)}
    vocabulary = Vocabulary({t: i for i, t in enumerate(output)})
    for model, rows in row_maps(embeddings, vocabulary, base="0").items():
        for i, token in enumerate(output):
            rules = [rows.own[i] >= 0, i in rows.taken, i in rows.means]
            anybody = any(token in e.vocabulary.ids for e in embeddings.values())
            assert sum(rules) == int(anybody)
            assert rules[0] == (token in embeddings[model].vocabulary.ids)
