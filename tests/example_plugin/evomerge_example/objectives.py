"""An objective: as good as the worst task."""

from collections.abc import Sequence

from evomerge.fitness.objective_registry import TaskValue, objective


@objective("worst_task")
def worst_task(values: Sequence[TaskValue]) -> float:
    """The smallest value of all tasks, whatever they weigh."""
    return min(v.value for v in values)
