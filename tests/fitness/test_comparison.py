"""Two models on the same items: differences, intervals and p-values that hold what they promise."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from evomerge.fitness.comparison import compare
from evomerge.fitness.objectives import Fitness
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.fitness.spec import TaskSpec

ONE = Fitness([TaskSpec(task="a")])


def task(values: Sequence[float], name: str = "a") -> TaskScore:
    items = tuple(ItemScore(f"i{n}", float(value)) for n, value in enumerate(values))
    value = sum(values) / len(values)
    return TaskScore(name, "acc", value, higher_is_better=True, aggregation="mean", items=items)


def scores(*tasks: TaskScore) -> Scores:
    return Scores(Split.TEST, tasks)


def test_the_p_value_is_the_share_of_all_swaps_with_a_difference_as_large() -> None:
    ours, theirs = [1, 1, 1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0, 1, 0]
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    sums = [
        abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
        for signs in itertools.product((1, -1), repeat=8)
    ]
    exact = sum(1 for total in sums if total >= abs(sum(gaps))) / len(sums)
    found = compare(ONE, scores(task(ours)), scores(task(theirs)))
    assert found.difference == pytest.approx(sum(gaps) / 8)
    assert found.p_value == pytest.approx(exact, abs=0.015)
    assert found.items == 8


def test_models_with_the_same_answers_do_not_differ() -> None:
    found = compare(ONE, scores(task([1, 0, 1, 1])), scores(task([1, 0, 1, 1])))
    assert (found.difference, found.low, found.high, found.p_value, found.detectable) == (0, 0, 0, 1, 0)


def test_equal_models_are_called_different_in_about_one_of_twenty_comparisons() -> None:
    chance, wrong = random.Random(5), 0
    for _ in range(200):
        skill = [chance.random() for _ in range(60)]
        ours, theirs = ([float(chance.random() < s) for s in skill] for _ in range(2))
        wrong += compare(ONE, scores(task(ours)), scores(task(theirs))).p_value < 0.05
    assert 2 <= wrong <= 20


def test_the_interval_is_narrower_than_that_of_models_on_different_items() -> None:
    chance = random.Random(3)
    hard = [float(chance.random() < 0.5) for _ in range(200)]
    better = [1.0 if n % 10 == 0 else value for n, value in enumerate(hard)]
    found = compare(ONE, scores(task(better)), scores(task(hard)))
    low, high = ONE.interval(scores(task(better)))
    assert 0 < found.low <= found.difference <= found.high
    assert found.high - found.low < (high - low) / 2
    assert found.p_value < 0.01


def test_the_detectable_difference_is_found_in_four_of_five_studies() -> None:
    chance, items, gain = random.Random(11), 150, 0.10
    detectable, found = [], 0
    for _ in range(100):
        theirs = [float(chance.random() < 0.5) for _ in range(items)]
        ours = [1.0 if v == 0 and chance.random() < 2 * gain + 0.1 else v for v in theirs]
        ours = [0.0 if v == 1 and chance.random() < 0.1 else v for v in ours]
        result = compare(ONE, scores(task(ours)), scores(task(theirs)))
        detectable.append(result.detectable)
        found += result.p_value < 0.05
    assert sum(detectable) / 100 == pytest.approx(0.11, abs=0.04)
    assert 50 <= found <= 97


def test_weights_directions_and_transforms_count_as_in_the_fitness() -> None:
    fitness = Fitness([TaskSpec(task="a", weight=1), TaskSpec(task="b", weight=3, transform="log")])

    def perplexity(values: Sequence[float]) -> TaskScore:
        made = task(values, "b")
        return replace(made, value=math.exp(-made.value), aggregation="perplexity", higher_is_better=False)

    first = scores(task([1, 1, 0, 1]), perplexity([-1.0, -2.0, -1.5, -1.0]))
    second = scores(task([1, 0, 0, 1]), perplexity([-1.1, -2.0, -1.9, -1.2]))
    found = compare(fitness, first, second)
    assert found.difference == pytest.approx(fitness.score(first) - fitness.score(second))
    assert found.low <= found.difference <= found.high
    back = compare(fitness, second, first)
    assert back.difference == pytest.approx(-found.difference)
    assert back.p_value == pytest.approx(found.p_value, abs=0.02)


def test_the_order_of_items_does_not_matter_and_other_items_are_refused() -> None:
    first, second = task([1, 0, 1, 1, 0]), task([0, 0, 1, 0, 0])
    turned = replace(second, items=tuple(reversed(second.items)))
    assert compare(ONE, scores(first), scores(turned)) == compare(ONE, scores(first), scores(second))
    with pytest.raises(ValueError, match="different items of 'a'"):
        compare(ONE, scores(first), scores(task([0, 0, 1, 0])))
    with pytest.raises(ValueError, match="different tasks"):
        compare(ONE, scores(first), scores(task([0, 0, 1, 0, 0], "b")))
