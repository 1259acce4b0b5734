"""Splits depend on content and seed, on nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import FitnessError
from evomerge.fitness.scores import Split
from evomerge.fitness.spec import SplitSpec
from evomerge.fitness.splits import digest, item_names, split_items

DIGESTS = [digest({"n": n}) for n in range(50)]


def contents(digests: list[str], spec: SplitSpec, limit: int | None = None) -> dict[Split, list[str]]:
    parts = split_items(digests, spec, limit)
    return {split: [digests[position] for position in part] for split, part in parts.items()}


def test_the_digest_ignores_the_order_of_fields_and_nothing_else() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert (
        len({digest(d) for d in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": None}, {"b": 1}, {"a": "ä"})}) == 6
    )


def test_copies_of_one_content_get_numbers() -> None:
    a, b = digest({"a": 1}), digest({"b": 1})
    assert item_names([a, b, a, a]) == [a[:16], b[:16], f"{a[:16]}.2", f"{a[:16]}.3"]


@given(seed=st.integers(0, 5), shuffle=st.integers(0, 1000))
def test_the_order_of_the_file_does_not_matter(seed: int, shuffle: int) -> None:
    spec = SplitSpec(search=0.5, validation=10, test=0.2, seed=seed)
    mixed = random.Random(shuffle).sample(DIGESTS, len(DIGESTS))
    ours, theirs = contents(DIGESTS, spec, 45), contents(mixed, spec, 45)
    assert {k: sorted(v) for k, v in ours.items()} == {k: sorted(v) for k, v in theirs.items()}


@given(copies=st.lists(st.integers(1, 6), min_size=8, max_size=20), seed=st.integers(0, 20))
def test_equal_contents_are_never_in_two_splits_and_none_is_lost(copies: list[int], seed: int) -> None:
    digests = [DIGESTS[n] for n, times in enumerate(copies) for _ in range(times)]
    try:
        parts = contents(digests, SplitSpec(seed=seed))
    except FitnessError:
        return  # a few contents with many copies can leave nothing for the last split
    sets = [set(part) for part in parts.values()]
    assert sum(map(len, sets)) == len(set().union(*sets)) == len(copies)
    assert sum(map(len, parts.values())) == len(digests)


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        ((0.6, 0.2, 0.2), [30, 10, 10]),
        ((0.7, 0.2, 0.1), [35, 10, 5]),
        ((1, 1, 48), [1, 1, 48]),
        ((0.5, 3, 0.1), [25, 3, 5]),
    ],
)
def test_sizes_are_as_asked(shares: tuple[float, float, float], sizes: list[int]) -> None:
    spec = SplitSpec(search=shares[0], validation=shares[1], test=shares[2])
    parts = split_items(DIGESTS, spec)
    assert [len(part) for part in parts.values()] == sizes
    assert all(list(part) == sorted(part) for part in parts.values())


def test_another_seed_gives_another_division_and_a_limit_a_part_of_the_same_order() -> None:
    assert contents(DIGESTS, SplitSpec(seed=0)) != contents(DIGESTS, SplitSpec(seed=1))
    whole = SplitSpec(search=20, validation=1, test=1)
    assert contents(DIGESTS, whole, limit=22) == contents(DIGESTS, whole)


@pytest.mark.parametrize(
    "bad", [{"search": 0}, {"search": 0.0}, {"test": 1.5}, {"search": True}, {"test": -3}]
)
def test_impossible_shares_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"search|test"):
        SplitSpec.model_validate(bad)
    with pytest.raises(ValueError, match="more than all"):
        SplitSpec(search=0.9)
