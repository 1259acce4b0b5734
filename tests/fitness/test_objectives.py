"""One number from several tasks, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fitness_support import value_of

from evomerge.errors import FitnessError, UserError
from evomerge.fitness import Fitness, FitnessSpec, ItemScore, Scores, Split, TaskScore, TaskSpec
from evomerge.recipe import parse


def task(
    name: str, value: float, *, higher: bool = True, aggregation: str = "mean", metric: str = "acc"
) -> TaskScore:
    return TaskScore(name, metric, value, higher, aggregation, (ItemScore("i", value),))


def right_or_wrong(name: str, right: int, n: int) -> TaskScore:
    items = tuple(ItemScore(str(i), float(i < right)) for i in range(n))
    return TaskScore(name, "acc", right / n, higher_is_better=True, aggregation="mean", items=items)


def scores(*tasks: TaskScore) -> Scores:
    return Scores(Split.SEARCH, tasks)


def specs(*given: object) -> tuple[TaskSpec, ...]:
    return FitnessSpec.model_validate({"tasks": list(given)}).tasks


def test_the_score_is_the_weighted_mean_with_directions_turned() -> None:
    fitness = Fitness(specs({"task": "a", "weight": 3}, {"task": "p", "weight": 1, "transform": "log"}, "b"))
    given = scores(task("a", 0.5), task("p", math.e**2, higher=False), task("b", 0.75))
    assert fitness.score(given) == pytest.approx((3 * 0.5 - 2 + 0.75) / 5)


def test_a_direction_in_the_experiment_wins_over_lm_evals() -> None:
    fitness = Fitness(specs({"task": "a", "direction": "minimize"}))
    assert fitness.score(scores(task("a", 0.25))) == -0.25
    assert (
        Fitness(specs({"task": "a", "direction": "maximize"})).score(scores(task("a", 2, higher=False))) == 2
    )


def test_weight_zero_is_reported_but_not_searched() -> None:
    fitness = Fitness(specs("a", {"task": "drift", "weight": 0, "transform": "log"}))
    assert fitness.score(scores(task("a", 0.5), task("drift", 100.0, higher=False))) == 0.5
    assert fitness.score(scores(task("a", 0.5), task("drift", 0.0, higher=False))) == 0.5
    assert fitness.score(scores(task("a", 0.5))) == 0.5
    with pytest.raises(FitnessError, match="weight 0"):
        Fitness([TaskSpec(task="a", weight=0.0)])


def test_a_groups_weight_is_spread_evenly_over_its_members() -> None:
    fitness = Fitness(specs({"task": "g", "weight": 1}, {"task": "a", "weight": 1}))
    assert fitness.score(scores(task("g/x", 1.0), task("g/y", 0.0), task("a", 1.0))) == 0.75


def test_one_task_may_count_with_two_metrics() -> None:
    fitness = Fitness(specs({"task": "a", "metric": "acc", "weight": 3}, {"task": "a", "metric": "f1"}))
    assert fitness.score(scores(task("a", 1.0), task("a", 0.5, metric="f1"))) == 0.875


def test_scores_that_do_not_fit_are_refused() -> None:
    fitness = Fitness(specs("a", "b"))
    with pytest.raises(FitnessError, match="no score of 'b'"):
        fitness.score(scores(task("a", 1.0)))
    with pytest.raises(FitnessError, match="'c'"):
        fitness.score(scores(task("a", 1.0), task("b", 1.0), task("c", 1.0)))
    with pytest.raises(FitnessError, match="no logarithm"):
        Fitness(specs({"task": "a", "transform": "log"})).score(scores(task("a", 0.0)))


def test_the_interval_of_a_proportion_is_that_of_the_binomial() -> None:
    fitness = Fitness(specs("a"))
    given = scores(right_or_wrong("a", 60, 200))
    low, high = fitness.interval(given)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 200)
    assert low == pytest.approx(0.3 - half, abs=0.012)
    assert high == pytest.approx(0.3 + half, abs=0.012)
    assert fitness.interval(given) == (low, high)
    assert fitness.task_interval(given.tasks[0]) == (low, high)
    inner = fitness.interval(given, confidence=0.5)
    assert low < inner[0] < 0.3 < inner[1] < high


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    fitness = Fitness(specs("a"))
    covered = 0
    for _ in range(200):
        low, high = fitness.interval(scores(right_or_wrong("a", int(generator.binomial(100, 0.4)), 100)))
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_tasks_are_resampled_apart_so_that_more_tasks_mean_a_narrower_interval() -> None:
    one = Fitness(specs("a")).interval(scores(right_or_wrong("a", 50, 100)))
    names = "abcd"
    four = Fitness(specs(*names)).interval(scores(*(right_or_wrong(name, 50, 100) for name in names)))
    assert four[1] - four[0] == pytest.approx((one[1] - one[0]) / 2, rel=0.15)


def test_an_interval_has_the_sign_and_transform_of_the_score() -> None:
    generator = np.random.default_rng(1)
    draws = zip(generator.normal(-50, 5, 300).tolist(), generator.integers(5, 50, 300).tolist(), strict=True)
    items = tuple(ItemScore(str(i), ll, float(n)) for i, (ll, n) in enumerate(draws))
    value = value_of(items, "weighted_perplexity")
    rolling = TaskScore(
        "p", "word_perplexity", value, higher_is_better=False, aggregation="weighted_perplexity", items=items
    )
    fitness = Fitness(specs({"task": "p", "transform": "log"}))
    low, high = fitness.interval(scores(rolling))
    task_low, task_high = fitness.task_interval(rolling)
    assert low < fitness.score(scores(rolling)) < high < 0
    assert task_low < value < task_high
    assert (low, high) == pytest.approx((-math.log(task_high), -math.log(task_low)))


def test_other_aggregations_get_an_approximate_interval_around_the_value() -> None:
    items = right_or_wrong("a", 60, 200).items
    f1 = TaskScore("a", "f1", 0.45, higher_is_better=True, aggregation="f1", items=items)
    low, high = Fitness(specs("a")).task_interval(f1)
    assert low < 0.45 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 200), rel=0.15)
    unknown = TaskScore(
        "a", "x", 3.0, higher_is_better=True, aggregation="custom:x", items=(ItemScore("i", 0.0, 0.0),)
    )
    assert Fitness(specs("a")).task_interval(unknown) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"task": "a", "wieght": 1}]}, r"Did you mean 'weight'"),
        ({"tasks": [{"task": "a", "weight": -1}]}, r"tasks\[0\].weight"),
        ({"tasks": [{"task": "a", "weight": 0}]}, "nothing to search"),
        ({"tasks": ["a", "a"]}, "its own metric"),
        ({"tasks": [{"task": "a", "metric": "acc"}, "a"]}, "its own metric"),
        ({"tasks": ["a"], "batch_size": 0}, "batch_size"),
        ({"tasks": ["a"], "batch_size": "most"}, "batch_size"),
        ({"tasks": ["a"], "splits": {"search": 0.9}}, "more than all items"),
        ({"tasks": ["a"], "limit": 0}, "limit"),
    ],
)
def test_mistakes_in_the_section_are_named(section: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(FitnessSpec, section, FitnessError)


def test_every_field_of_the_schema_is_described_and_bare_names_are_tasks() -> None:
    from evomerge.fitness import SplitSpec

    for model in (TaskSpec, SplitSpec, FitnessSpec):
        assert all(field.description for field in model.model_fields.values())
    spec = FitnessSpec.model_validate({"tasks": "gsm8k"})
    assert spec.tasks == (TaskSpec(task="gsm8k"),)
    assert FitnessSpec.model_validate_json(spec.model_dump_json()) == spec
