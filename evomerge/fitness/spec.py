"""The ``fitness:`` section of an experiment: which tasks, how they weigh, which items are for what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from evomerge.fitness.chat_spec import ChatSpec
from evomerge.fitness.generation_spec import GenerationSpec
from evomerge.fitness.items import Measure
from evomerge.recipe import as_number, whole

__all__ = ["FitnessSpec", "SplitSpec", "TaskSpec"]

_ROUNDING = 1e-9
"""Fractions such as 0.7 + 0.2 + 0.1 miss 1 by less than this."""


def _share(share: int | float) -> int | float:
    if isinstance(share, float) and not 0.0 < share <= 1.0:
        raise ValueError(f"a fraction lies in (0, 1], got {share}; a number of items has no decimal point")
    if isinstance(share, int) and share < 1:
        raise ValueError(f"a split needs at least one item, got {share}")
    return share


_Share = Annotated[StrictInt | StrictFloat, BeforeValidator(as_number), AfterValidator(_share)]
_Whole = Annotated[StrictInt, BeforeValidator(whole)]
_Count = Annotated[_Whole, Field(ge=1)]
_ThinkEnd = Annotated[StrictStr, Field(min_length=1)] | Annotated[StrictInt, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_OF_LM_EVAL = (
    *("metric", "filter", "num_fewshot", "chat", "description", "gen_prefix", "repeats", "generation"),
    "think_end_token",
)
"""Fields that only tasks of lm-eval have."""


class TaskSpec(_Frozen):
    """One lm-eval task (or group, or tag), or a Python task, and what it counts for.

    A bare name stands for all defaults. For a Python task ``task`` is its ``name``, or that of its class.
    """

    task: str = Field(min_length=1, description="Name of an lm-eval task; a group or tag means its members.")
    python: str | None = Field(
        default=None,
        description="A task of your own in place of 'task': FILE.py:CLASS, relative to the experiment file "
        "(docs/python_tasks.md). It runs with all that you may do on this machine.",
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="What a Python task is called in tables and in the study; its class if not given.",
    )
    metric: str | None = Field(
        default=None, min_length=1, description="Metric to take; the task's first one if not given."
    )
    filter: str | None = Field(
        default=None, min_length=1, description="lm-eval filter to take; the task's first one if not given."
    )
    weight: Annotated[float, Field(strict=True), BeforeValidator(as_number)] = Field(
        default=1.0,
        ge=0.0,
        allow_inf_nan=False,
        description="Share in the score, relative to the other tasks; 0 = reported, not searched. "
        "A group's weight is spread evenly over its members.",
    )
    direction: Literal["maximize", "minimize"] | None = Field(
        default=None, description="Which way is better; what lm-eval says for the metric if not given."
    )
    num_fewshot: _Whole | None = Field(
        default=None,
        ge=0,
        description="Solved examples in front of each prompt; the task's own if not given.",
    )
    transform: Literal["none", "log"] = Field(
        default="none",
        description="Applied to the task's value before it is weighed: log suits perplexities.",
    )
    chat: ChatSpec | None = Field(
        default=None, description="What differs from fitness.chat; false: this task is asked without chat."
    )
    description: str | None = Field(
        default=None,
        description="Text in front of the examples (with chat, in the system role); the task's own if not "
        "given. May be a template over the item.",
    )
    gen_prefix: str | None = Field(
        default=None, description="How each answer begins; the task's own if not given. May be a template."
    )
    repeats: _Count | None = Field(
        default=None, description="Answers to each request; the task's own number if not given."
    )
    generation: GenerationSpec | None = Field(
        default=None, description="What differs from the task's and from fitness.generation."
    )
    think_end_token: _ThinkEnd | None = Field(
        default=None, description="As fitness.think_end_token, for this task."
    )

    measure: Literal["metric", "answer_likelihood"] = Field(
        default="metric",
        description="What the search looks at. answer_likelihood: the log-likelihood of the reference "
        "answer, one forward pass in place of one for each token; validation and test use the metric.",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"task": given}
        if not isinstance(given, Mapping) or not isinstance(given.get("python"), str):
            return given
        if not re.fullmatch(r".+\.py:[^\W\d]\w*", given["python"]):
            raise ValueError(f"python: expected FILE.py:CLASS, got {given['python']!r}")
        name = given.get("name") or given["python"].rpartition(":")[2]
        if given.get("task", name) != name:
            raise ValueError("give either 'task' (of lm-eval) or 'python' (your own), not both")
        return {**given, "task": name}

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.python is None:
            _refuse(self, "name", "python", "it names a Python task, and there is no 'python'")
        else:
            for field in _OF_LM_EVAL:
                _refuse(self, field, "python", "it belongs to tasks of lm-eval; a Python task has none")
            _refuse(self, "measure", "python", "a Python task measures what its score() says")
            _refuse(self, "transform", "python", "let score() return the logarithm itself")
        if self.measure != "metric":
            _refuse(self, "transform", "measure", "a log-likelihood is a logarithm already")
        return self

    def covers(self, task: str, metric: str) -> bool:
        """Whether the score of ``task`` (``name``, or ``group/name`` for a member) belongs here."""
        named = task == self.task or task.startswith(f"{self.task}/")
        return named and (self.metric in (None, metric) or metric == self.measure != "metric")


def _refuse(spec: TaskSpec, field: str, beside: str, why: str) -> None:
    """Check that ``field`` has its default, as it does not go together with ``beside``."""
    if getattr(spec, field) != type(spec).model_fields[field].default:
        at = f"task {spec.task!r}: {field}" + (f" and {beside}" if getattr(spec, beside) is not None else "")
        raise ValueError(f"{at}: {why}")


class SplitSpec(_Frozen):
    """How the items of each task are divided; every task by the same rule.

    A number with a decimal point is a fraction of the items, one without is a number of items. Which
    item goes where depends on its content and ``seed`` only; items with equal content stay together.
    """

    search: _Share = Field(default=0.6, description="Items that candidates are scored on.")
    validation: _Share = Field(default=0.2, description="Items that choose the winner among the best.")
    test: _Share = Field(default=0.2, description="Items of the final report, not used before.")
    seed: _Whole = Field(default=0, description="Another seed, another division.")

    @model_validator(mode="after")
    def _at_most_everything(self) -> Self:
        total = sum(share for share in (self.search, self.validation, self.test) if isinstance(share, float))
        if total > 1.0 + _ROUNDING:
            raise ValueError(f"the fractions add up to {total:g}, which is more than all items")
        return self


class FitnessSpec(_Frozen):
    """What makes a model good: tasks, scored on disjoint splits of their items."""

    tasks: tuple[TaskSpec, ...] = Field(min_length=1, description="The tasks; names or mappings.")
    objective: str = Field(
        default="weighted_mean",
        description="What makes one number of the tasks: weighted_mean, or one of an installed package.",
    )
    include_path: str | tuple[str, ...] | None = Field(
        default=None,
        description="Folder(s) with task definitions of your own, relative to the experiment file. "
        "They win over lm-eval's tasks of the same name.",
    )
    splits: SplitSpec = Field(default_factory=SplitSpec, description="Division of the items.")
    batch_size: Literal["auto"] | _Count = Field(
        default="auto",
        description="Sequences in one forward pass; auto: as many as the memory of the device suggests "
        "(the engine lm_eval: 16). As the study was begun if not given.",
    )
    max_gen_toks: _Count | None = Field(
        default=None, description="Generated answers are cut at this many tokens, if the task allows more."
    )
    chat: ChatSpec | None = Field(
        default=None, description="Asks chat models as their users do; false or not given: plain prompts."
    )
    generation: GenerationSpec | None = Field(
        default=None, description="Replaces generation options of all tasks whose answers are generated."
    )
    think_end_token: _ThinkEnd | None = Field(
        default=None,
        description="Generated answers are cut up to this text, or token id, which ends the thinking; "
        "where it does not occur the answer stays whole.",
    )
    limit: _Count | None = Field(
        default=None, description="Use only so many items of each task (the first in the seeded order)."
    )
    trust_remote_code: StrictBool = Field(
        default=False,
        description="Lets lm-eval run Python code that comes with a model, a dataset or a task definition.",
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_task(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _tells_tasks_apart(self) -> Self:
        if all(task.weight == 0.0 for task in self.tasks):
            raise ValueError("every task has weight 0, so there is nothing to search for")
        often = Counter(task.task for task in self.tasks)
        metrics = Counter((task.task, task.metric) for task in self.tasks)
        for (name, metric), times in metrics.items():
            if times > 1 or (often[name] > 1 and metric is None):
                own = "name" if any(task.task == name and task.python for task in self.tasks) else "metric"
                raise ValueError(f"task {name!r} is given {often[name]} times; give each its own {own}")
        by_likelihood = Counter(task.task for task in self.tasks if task.measure != "metric")
        for name, times in by_likelihood.items():
            if times > 1:
                raise ValueError(
                    f"task {name!r} is measured by answer_likelihood {times} times; once is enough"
                )
        return self

    @property
    def search_measure(self) -> Measure:
        """What is measured of candidates on search items; everywhere else it is the tasks' own metrics."""
        return Measure.ANSWER_LIKELIHOOD if any(t.measure != "metric" for t in self.tasks) else Measure.METRIC

    def include_paths(self, base_dir: Path) -> tuple[Path, ...]:
        """The folders of ``include_path``, absolute; relative ones lie under ``base_dir``."""
        given = (self.include_path,) if isinstance(self.include_path, str) else self.include_path or ()
        return tuple((base_dir / Path(path).expanduser()).resolve() for path in given)
