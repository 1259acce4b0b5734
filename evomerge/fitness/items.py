"""What a model is scored on: which items of the tasks, and by which measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evomerge.errors import FitnessError
from evomerge.fitness.scores import Split

__all__ = ["ItemSet", "Measure", "positions_of"]


class Measure(StrEnum):
    """What is measured on an item."""

    METRIC = "metric"
    """The task's own metric, as lm-eval computes it."""
    ANSWER_LIKELIHOOD = "answer_likelihood"
    """The log-likelihood of the reference answer, for the tasks that ask for it; of others, the metric."""


@dataclass(frozen=True)
class ItemSet:
    """The items of a split, all of them or, of the tasks in ``only``, those that are named.

    ``only`` holds pairs of a task and its items, in alphabetical order, so that equal sets are equal values;
    ``ItemSet.of`` makes it from any mapping. A task that it does not name is scored whole. Items go by the
    names that ``ItemScore`` has; the order in which they are scored is that of the dataset.

    Raises:
        ValueError: A task is named without items, or ``only`` is not in order.
    """

    split: Split
    only: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        for task, items in self.only:
            if not items:
                raise ValueError(f"no item of task {task!r} is named; leave the task out to score it whole")
        if self.only != _ordered(self.only):
            raise ValueError("tasks and items are named once each, in alphabetical order")

    @classmethod
    def of(cls, split: Split, only: Mapping[str, Iterable[str]]) -> ItemSet:
        """The items of ``split``, of the tasks in ``only`` these; repetitions count once."""
        return cls(split, _ordered(only.items()))

    def of_task(self, task: str) -> frozenset[str] | None:
        """The items of ``task``; ``None`` stands for all that the split has."""
        found = dict(self.only).get(task)
        return None if found is None else frozenset(found)

    def document(self) -> dict[str, Any]:
        """Plain JSON values; ``from_document`` gives an equal set back."""
        return {"split": self.split.value, "only": {task: list(items) for task, items in self.only}}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ItemSet:
        """The set that ``document`` was made from."""
        return cls.of(Split(document["split"]), document["only"])


def positions_of(chosen: ItemSet, task: str, names: Sequence[str], where: str) -> tuple[int, ...]:
    """Where the items of ``chosen`` stand among the ``names`` of all items that its split has of ``task``.

    Raises:
        FitnessError: One is not there; ``where`` names the task.
    """
    wanted = chosen.of_task(task)
    if wanted is None:
        return tuple(range(len(names)))
    found = tuple(position for position, name in enumerate(names) if name in wanted)
    if len(found) < len(wanted):
        missing = sorted(wanted - set(names))
        raise FitnessError(
            where,
            f"the {chosen.split.value} split has no item {missing[0]!r} ({len(missing)} of {len(wanted)} are "
            "not there)",
            "Have the data of the task, or fitness.splits, changed since the items were chosen?",
        )
    return found


def _ordered(only: Iterable[tuple[str, Iterable[str]]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(sorted((task, tuple(sorted(set(items)))) for task, items in only))
