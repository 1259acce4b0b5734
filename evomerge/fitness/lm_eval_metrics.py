"""How lm-eval makes one value of the items of a task, and what each item contributes to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.registry import AGGREGATION_REGISTRY
from lm_eval.api.task import Task

__all__ = ["Aggregate", "aggregation_of", "contribution"]

Aggregate = Callable[[list[Any]], Any]
"""lm-eval's raw results of the items to the task's value."""


def aggregation_of(task: Task, metric: str) -> tuple[Aggregate, str]:
    """How the items of ``metric`` become one value; lm-eval's name for it, or ``custom:...``."""
    function = task.aggregation().get(metric, mean)  # as lm-eval does for a metric without one
    for name, known in AGGREGATION_REGISTRY.items():
        if known is function:
            return function, str(name)
    return function, f"custom:{getattr(function, '__name__', type(function).__name__)}"


def contribution(raw: Any, aggregation: str, aggregate: Aggregate) -> tuple[float, float]:
    """(value, weight) of one item, from lm-eval's raw result for it.

    Numbers count as they are; (log-likelihood, words or bytes) become value and weight. For f1 and mcc an
    item is right (1) or wrong (0); for any other metric of whole sets (bleu, ter, brier_score) it is the
    metric of the item alone. Where even that is not a number the item has value 0 and weight 0.
    """
    if aggregation in ("weighted_perplexity", "bits_per_byte"):
        return float(raw[0]), float(raw[1])
    if aggregation in ("f1", "matthews_corrcoef"):
        gold, predicted = raw
        return float(np.all(gold == predicted)), 1.0
    if isinstance(raw, int | float | np.number | np.bool_):
        value = float(raw)
    else:
        try:
            value = float(aggregate([raw]))
        except (ArithmeticError, TypeError, ValueError, IndexError):
            return 0.0, 0.0
    return (value, 1.0) if math.isfinite(value) else (0.0, 0.0)
