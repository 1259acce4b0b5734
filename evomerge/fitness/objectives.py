"""Scores of several tasks to one number, and how sure it is. Only here are directions and weights known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from evomerge.errors import FitnessError, did_you_mean
from evomerge.fitness.items import Measure
from evomerge.fitness.objective_registry import OBJECTIVES, ObjectiveFunction, TaskValue
from evomerge.fitness.resampling import percentiles, resampled
from evomerge.fitness.scores import Scores, TaskScore
from evomerge.fitness.spec import FitnessSpec, TaskSpec

__all__ = ["POSITIVE_AGGREGATIONS", "Fitness"]

Array = npt.NDArray[np.float64]

POSITIVE_AGGREGATIONS = ("perplexity", "weighted_perplexity", "bits_per_byte")
"""Aggregations whose value has a logarithm, whatever the model."""


class Fitness:
    """One number for the scores of a model, higher is better: the weighted mean of its tasks, or a function.

    A task's value has its transform applied and, where lower is better, its sign turned. A group's
    weight is spread evenly over its members. Works on any split, in any process, from the specs alone.

    Raises:
        FitnessError: every weight is zero.
    """

    def __init__(self, tasks: Sequence[TaskSpec], function: ObjectiveFunction | None = None) -> None:
        self._specs = tuple(tasks)
        self._function = function
        self._total = math.fsum(spec.weight for spec in self._specs)
        if self._total <= 0.0:
            raise FitnessError("fitness.tasks", "every task has weight 0", "Give one of them a weight.")

    @classmethod
    def of(cls, spec: FitnessSpec) -> Fitness:
        """The fitness of a ``fitness`` section.

        Raises:
            FitnessError: There is no such objective.
        """
        if spec.objective == "weighted_mean":
            return cls(spec.tasks)
        if spec.objective not in OBJECTIVES:
            known = ("weighted_mean", *OBJECTIVES)
            hint = " ".join((did_you_mean(spec.objective, known), *OBJECTIVES.failures))
            raise FitnessError("fitness.objective", f"there is no objective {spec.objective!r}", hint)
        return cls(spec.tasks, OBJECTIVES[spec.objective])

    def score(self, scores: Scores) -> float:
        """The number; higher is better.

        Raises:
            FitnessError: ``scores`` do not fit the tasks, a logarithm of 0 or less is asked for, or the
                objective's function failed.
        """
        parts = [
            (task, weight, self._better(task)(task.value))
            for task, weight in zip(scores.tasks, self._weights(scores), strict=True)
            if weight > 0.0  # reported only: need not even have a logarithm
        ]
        if self._function is None:
            return math.fsum(weight * value for _, weight, value in parts) / self._total
        return self._called([TaskValue(task.task, value, weight) for task, weight, value in parts])

    def interval(self, scores: Scores, confidence: float = 0.95) -> tuple[float, float]:
        """Where the score would lie with other items of the same kind: (low, high), higher is better.

        A percentile bootstrap over the items within each task, 1000 resamples from a generator of its
        own: the same scores always give the same interval.
        """
        rows = [resampled(task, position) for position, task in enumerate(scores.tasks)]
        return percentiles(self.combined(scores, rows), confidence)

    def combined(self, scores: Scores, rows: Sequence[Sequence[float]]) -> Array:
        """The fitness for other values of the tasks: ``rows`` has R values for each task of ``scores``.

        Returns R numbers. Values are in the metric's own unit, neither transformed nor turned.
        """
        parts = [
            (task.task, weight, list(map(self._better(task), row)))
            for task, weight, row in zip(scores.tasks, self._weights(scores), rows, strict=True)
            if weight > 0.0
        ]
        if self._function is None:
            total = np.zeros(len(rows[0]))
            for _, weight, values in parts:
                total += weight * np.array(values)
            return total / self._total
        scored = [
            self._called([TaskValue(task, values[i], weight) for task, weight, values in parts])
            for i in range(len(rows[0]))
        ]
        return np.array(scored)

    def counts(self, task: TaskScore) -> bool:
        """Whether the task has a weight in the score; others are reported only."""
        return self._spec(task).weight > 0.0

    def task_interval(self, task: TaskScore, confidence: float = 0.95) -> tuple[float, float]:
        """The same for one task's value, in the metric's own unit: neither transformed nor turned.

        For an aggregation outside ``resampling.EXACT_AGGREGATIONS`` it is an approximation: the spread of the
        mean of the items' own values, around the task's value. Infinite when the items hold no numbers.
        """
        return percentiles(np.array(resampled(task, 0)), confidence)

    def _called(self, values: Sequence[TaskValue]) -> float:
        assert self._function is not None  # noqa: S101 (callers look)
        try:
            return float(self._function(values))
        except Exception as exception:  # a function of the user's
            told = f"the objective's function failed ({type(exception).__name__}: {exception})"
            raise FitnessError("fitness.objective", told) from exception

    def _spec(self, task: TaskScore) -> TaskSpec:
        for spec in sorted(self._specs, key=lambda spec: spec.task != task.task):  # the task before a group
            if spec.covers(task.task, task.metric):
                return spec
        raise FitnessError(
            "fitness.tasks",
            f"there are scores of {task.task!r} ({task.metric}), which is not one of the tasks",
        )

    def _weights(self, scores: Scores) -> list[float]:
        specs = [self._spec(task) for task in scores.tasks]
        for spec in self._specs:
            if spec.weight > 0.0 and not any(each is spec for each in specs):
                raise FitnessError("fitness.tasks", f"there is no score of {spec.task!r}")
        return [spec.weight / sum(each is spec for each in specs) for spec in specs]

    def _better(self, task: TaskScore) -> Callable[[float], float]:
        """What makes a value of ``task`` one that is better the higher it is."""
        if task.metric == Measure.ANSWER_LIKELIHOOD:  # whatever the direction of the metric
            return float
        spec = self._spec(task)
        higher = task.higher_is_better if spec.direction is None else spec.direction == "maximize"

        def better(value: float) -> float:
            if spec.transform == "log":
                if value <= 0.0:
                    raise FitnessError(
                        f"fitness.tasks: {task.task}: transform",
                        f"{task.metric} is {value:g}, which has no logarithm",
                        "Use 'transform: log' for perplexities only.",
                    )
                value = math.log(value)
            return value if higher else -value

        return better
