"""The ``fitness:`` section of an experiment: which tasks, how they weigh, which items are for what."""

from __future__ import annotations

from collections import Counter
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
    field_validator,
    model_validator,
)

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


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSpec(_Frozen):
    """One lm-eval task (or group, or tag) and what it counts for. A bare name stands for all defaults."""

    task: str = Field(min_length=1, description="Name of an lm-eval task; a group or tag means its members.")
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

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, given: Any) -> Any:
        return {"task": given} if isinstance(given, str) else given

    def covers(self, task: str, metric: str) -> bool:
        """Whether the score of ``task`` (``name``, or ``group/name`` for a member) belongs here."""
        named = task == self.task or task.startswith(f"{self.task}/")
        return named and self.metric in (None, metric)


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
    """What makes a model good: tasks of lm-eval, scored on disjoint splits of their items."""

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
                raise ValueError(f"task {name!r} is given {often[name]} times; give each its own metric")
        return self

    def include_paths(self, base_dir: Path) -> tuple[Path, ...]:
        """The folders of ``include_path``, absolute; relative ones lie under ``base_dir``."""
        given = (self.include_path,) if isinstance(self.include_path, str) else self.include_path or ()
        return tuple((base_dir / Path(path).expanduser()).resolve() for path in given)
