"""The tasks of an experiment: those of lm-eval, and Python classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.fitness.spec import FitnessSpec

if TYPE_CHECKING:
    from evomerge.fitness.tasks import Task

__all__ = ["build_tasks"]


def build_tasks(fitness: FitnessSpec, base_dir: Path, *, as_drawn: bool = False) -> tuple[Task, ...]:
    """The tasks of ``fitness``, groups and tags expanded, in the order of the experiment.

    Raises:
        FitnessError: see ``lm_eval_tasks.build_tasks`` and ``PythonTask``.
    """
    from evomerge.fitness import lm_eval_tasks
    from evomerge.fitness.python_task import PythonTask

    of_lm_eval: list[Task] = []
    if any(spec.python is None for spec in fitness.tasks):
        of_lm_eval.extend(lm_eval_tasks.build_tasks(fitness, base_dir, as_drawn=as_drawn))
    tasks: list[Task] = []
    for spec in fitness.tasks:
        if spec.python is not None:
            tasks.append(PythonTask(spec, fitness, base_dir))
        else:
            tasks.extend(t for t in of_lm_eval if spec.covers(t.info.task, t.info.metric))
    return tuple(tasks)
