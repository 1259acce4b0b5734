"""What an experiment changes in the settings of an lm-eval task."""

from __future__ import annotations

from typing import Any

from lm_eval.api.task import Task

from evomerge.errors import FitnessError
from evomerge.fitness.generation_spec import GenerationSpec, generation_options
from evomerge.fitness.spec import FitnessSpec, TaskSpec

__all__ = ["change_settings"]


def change_settings(task: Task, spec: TaskSpec, fitness: FitnessSpec, where: str) -> None:
    """Writes what ``spec`` and ``fitness`` say into the configuration of ``task``, before prompts are made.

    Raises:
        FitnessError: Options do not go together, or are of another kind of task; ``where`` names the task.
    """
    for name in ("num_fewshot", "description", "repeats"):
        value = getattr(spec, name)
        if value is not None:
            task.set_config(key=name, value=value)
    if spec.gen_prefix is not None:
        _set_prefix(task, spec.gen_prefix)
    if task.OUTPUT_TYPE != "generate_until":
        _refuse_generation(task, spec, where)
        return
    options = dict(task.config.generation_kwargs or {})
    generation = (spec.generation or GenerationSpec()).over(fitness.generation)
    if generation.given():
        options = generation_options(options, generation, where)
    end = fitness.think_end_token if spec.think_end_token is None else spec.think_end_token
    if end is not None:
        options["think_end_token"] = end
    if options != task.config.generation_kwargs:
        task.set_config(key="generation_kwargs", value=options)


def _set_prefix(task: Task, prefix: str) -> None:
    # The examples have a copy, made when the task was (0.4.13); one of their own stays.
    examples: Any = getattr(task, "fewshot_cfg", None)
    if examples is not None and examples.gen_prefix == task.config.gen_prefix:
        examples.gen_prefix = prefix
    task.set_config(key="gen_prefix", value=prefix)


def _refuse_generation(task: Task, spec: TaskSpec, where: str) -> None:
    is_member = task.config.task != spec.task  # of a group: others may generate
    for name in ("generation", "think_end_token"):
        if getattr(spec, name) is not None and not is_member:
            raise FitnessError(
                f"{where}: {name}", f"no answers are generated for it (its kind is {task.OUTPUT_TYPE})"
            )
