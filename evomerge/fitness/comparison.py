"""Two models on the same items: how much better one is, how sure that is, and what could have been seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evomerge.fitness.objectives import Fitness
from evomerge.fitness.resampling import percentiles, resampled, swapped
from evomerge.fitness.scores import Scores, TaskScore

__all__ = ["Comparison", "compare"]

SWAPS = 9_999
"""Rounds of the permutation test; its smallest p-value is 1 / (SWAPS + 1)."""

_POWER = 1.959964 + 0.841621
"""Standard errors to a difference that a test at 5 % finds in 4 of 5 studies."""


@dataclass(frozen=True)
class Comparison:
    """Fitness of the first model minus that of the second, on the same items; above 0, the first is better.

    ``low`` and ``high``: a paired bootstrap over the items within each task. ``p_value``: a permutation test
    (two-sided; Fisher's, by 9,999 random swaps of the two results of an item), the share of swaps with a
    difference as large. ``detectable``: the smallest difference that this many items show with 80 % power at
    a level of 5 %. ``items`` counts those of all tasks that have a weight.
    """

    difference: float
    low: float
    high: float
    p_value: float
    detectable: float
    items: int


def compare(fitness: Fitness, first: Scores, second: Scores, confidence: float = 0.95) -> Comparison:
    """``first`` against ``second``; the same scores always give the same numbers.

    Raises:
        ValueError: They are not of the same tasks and items.
        FitnessError: As ``Fitness.score``.
    """
    second = _aligned(first, second)
    pairs = list(zip(first.tasks, second.tasks, strict=True))
    difference = fitness.score(first) - fitness.score(second)

    ours = fitness.combined(first, [resampled(task, i) for i, task in enumerate(first.tasks)])
    theirs = fitness.combined(second, [resampled(task, i) for i, task in enumerate(second.tasks)])
    drawn = ours - theirs
    low, high = percentiles(drawn, confidence)

    rounds = [swapped(a, b, i, SWAPS) for i, (a, b) in enumerate(pairs)]
    one = fitness.combined(first, [row for row, _ in rounds])
    other = fitness.combined(second, [row for _, row in rounds])
    rounding = 1e-12 * max(1.0, abs(difference))
    as_large = int(np.sum(np.abs(one - other) >= abs(difference) - rounding))
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=(1 + as_large) / (1 + SWAPS),
        detectable=_POWER * float(np.std(drawn)),
        items=sum(len(task.items) for task in first.tasks if fitness.counts(task)),
    )


def _aligned(first: Scores, second: Scores) -> Scores:
    """``second`` with tasks and items in the order of ``first``."""
    theirs = {(task.task, task.metric): task for task in second.tasks}
    if {(task.task, task.metric) for task in first.tasks} != set(theirs):
        raise ValueError("the scores are of different tasks")
    return Scores(
        second.split, tuple(_task_in_order(task, theirs[task.task, task.metric]) for task in first.tasks)
    )


def _task_in_order(first: TaskScore, second: TaskScore) -> TaskScore:
    items = {item.item: item for item in second.items}
    if len(items) != len(first.items) or any(item.item not in items for item in first.items):
        raise ValueError(f"the scores are of different items of {first.task!r}")
    return replace(second, items=tuple(items[item.item] for item in first.items))
