"""The registry of objectives: functions that combine the tasks' values, in place of the weighted mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evomerge.registry import Registry

__all__ = ["OBJECTIVES", "ObjectiveFunction", "TaskValue", "objective"]


@dataclass(frozen=True)
class TaskValue:
    """One task as an objective sees it. ``value`` is transformed as the task says; higher is better.

    ``weight`` is the task's share (a member's part of its group's); tasks with weight 0 are left out.
    """

    task: str
    value: float
    weight: float


ObjectiveFunction = Callable[[Sequence[TaskValue]], float]
"""The tasks of one model, in the order of the experiment, to one number: higher is better."""

OBJECTIVES: Registry[ObjectiveFunction] = Registry("objective", "evomerge.objectives")
"""Functions that ``fitness.objective`` may name; ``weighted_mean`` is built in."""


def objective(name: str) -> Callable[[ObjectiveFunction], ObjectiveFunction]:
    """A decorator that registers a function as the objective ``name``.

    The function must be pure: it is called again for each resample of a confidence interval.

    Raises:
        ValueError: The name is taken.
    """
    if name == "weighted_mean":
        raise ValueError("the objective 'weighted_mean' is built in")

    def register(function: ObjectiveFunction) -> ObjectiveFunction:
        OBJECTIVES.add(name, function)
        return function

    return register
