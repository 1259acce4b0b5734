"""Values that a task would have had with other items, or with answers swapped between two models.

Most of lm-eval's aggregations are a function of one ratio, sum of values over sum of weights, so that a
task's value follows from its items. For the others (``f1``, ``matthews_corrcoef``, ``bleu``, ``chrf``,
``ter``, ``median``, a task's own) it does not, and what is here is an approximation: the spread of the mean
of the items' own values, around the task's value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from evomerge.fitness.scores import TaskScore

__all__ = ["EXACT_AGGREGATIONS", "RESAMPLES", "percentiles", "resampled", "swapped"]

_Array = npt.NDArray[np.float64]

RESAMPLES = 1000
_SEED = 20_240_229
_BLOCK = 2**20
"""Draws held in memory at once."""


def _mean(ratio: float) -> float:
    return ratio


def _exp(ratio: float) -> float:
    return math.exp(-ratio)


def _bits(ratio: float) -> float:
    return -ratio / math.log(2)


# lm-eval's aggregations (0.4.13, api/metrics.py) as functions of sum(values) / sum(weights).
_OF_RATIO: dict[str, Callable[[float], float]] = {
    "mean": _mean,
    "nanmean": _mean,  # an item without a number has value 0 and weight 0
    "brier_score": _mean,
    "perplexity": _exp,
    "weighted_perplexity": _exp,
    "bits_per_byte": _bits,
}

EXACT_AGGREGATIONS = tuple(_OF_RATIO)
"""Aggregations whose value follows from the items."""


def resampled(task: TaskScore, position: int) -> list[float]:
    """The task's value for each of ``RESAMPLES`` bootstrap resamples of its items.

    ``position`` keeps the draws of tasks apart; scores of two models at one position, with equally many
    items, are resampled alike. Infinite where no item has a weight.
    """
    values, weights = _arrays(task)
    if weights.sum() == 0.0:
        return [-math.inf] * (RESAMPLES // 2) + [math.inf] * (RESAMPLES // 2)
    return _values(task, _ratios(values, weights, np.random.default_rng([_SEED, position])))


def swapped(
    first: TaskScore, second: TaskScore, position: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Values of two models on the same items, in the same order, after ``rounds`` times swapping at random.

    In each round the two results of an item change places with probability 1/2. For a model whose items
    have no weight in a round, its own value stands.
    """
    (a, wa), (b, wb) = _arrays(first), _arrays(second)
    generator = np.random.default_rng([_SEED, 1, position])
    found: tuple[list[_Array], list[_Array]] = [], []
    rows = max(1, _BLOCK // len(a))
    for start in range(0, rounds, rows):
        swap = (generator.random((min(rows, rounds - start), len(a))) < 0.5).astype(np.float64)
        values, weights = swap @ (b - a), swap @ (wb - wa)
        for into, value, weight, sign in ((0, a, wa, 1.0), (1, b, wb, -1.0)):
            total = weight.sum() + sign * weights
            own = value.sum() / weight.sum() if weight.sum() else 0.0
            ratio = np.divide(
                value.sum() + sign * values, total, out=np.full_like(total, own), where=total > 0.0
            )
            found[into].append(ratio)
    return _values(first, np.concatenate(found[0])), _values(second, np.concatenate(found[1]))


def percentiles(values: _Array, confidence: float) -> tuple[float, float]:
    """The middle ``confidence`` of ``values``: (low, high)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence lies in (0, 1), got {confidence}")
    tail = (1.0 - confidence) / 2.0
    ordered = np.sort(values)  # no interpolation: infinite ends stay infinite
    low = ordered[math.floor(tail * (len(ordered) - 1))]
    high = ordered[math.ceil((1.0 - tail) * (len(ordered) - 1))]
    return float(low), float(high)


def _arrays(task: TaskScore) -> tuple[_Array, _Array]:
    return np.array([i.value for i in task.items]), np.array([i.weight for i in task.items])


def _values(task: TaskScore, ratios: _Array) -> list[float]:
    """The task's value for each ratio that its items could have had."""
    if task.aggregation in _OF_RATIO:
        return [_OF_RATIO[task.aggregation](ratio) for ratio in ratios.tolist()]
    values, weights = _arrays(task)
    centre = float(values.sum() / weights.sum()) if weights.sum() else 0.0
    return [task.value + ratio - centre for ratio in ratios.tolist()]


def _ratios(values_N: _Array, weights_N: _Array, generator: np.random.Generator) -> _Array:  # noqa: N803 (N items)
    """sum(values) / sum(weights) of each resample."""
    n = len(values_N)
    rows = max(1, _BLOCK // n)
    ratios = []
    for first in range(0, RESAMPLES, rows):
        draws = generator.integers(n, size=(min(rows, RESAMPLES - first), n))
        weight = weights_N[draws].sum(axis=1)
        total = values_N[draws].sum(axis=1)
        whole = float(values_N.sum() / weights_N.sum())
        # A resample of items without weight says nothing: it counts as the whole.
        ratios.append(np.divide(total, weight, out=np.full_like(total, whole), where=weight > 0.0))
    return np.concatenate(ratios)
