"""Scores of one model: per task, per item. Plain values that travel between processes and into the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["ItemScore", "Scores", "Split", "TaskScore"]


class Split(StrEnum):
    """Which items of a task: those the search sees, those that choose the winner, those for the report."""

    SEARCH = "search"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class ItemScore:
    """What one item of a task contributes.

    ``item`` identifies the document (a digest of its content), ``value`` is its metric in the metric's
    own unit, ``weight`` its share in the aggregate (words or bytes for a perplexity, otherwise 1).
    """

    item: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class TaskScore:
    """One task's metric over the items of one split, as lm-eval aggregates it, and the items themselves."""

    task: str
    metric: str
    value: float
    higher_is_better: bool
    aggregation: str
    """lm-eval's name of how items become the value: mean, perplexity, weighted_perplexity, ..."""
    items: tuple[ItemScore, ...]


@dataclass(frozen=True)
class Scores:
    """All tasks of one model on one split, in the order of the experiment."""

    split: Split
    tasks: tuple[TaskScore, ...]

    def document(self) -> dict[str, Any]:
        """Plain JSON values; ``Scores.from_document`` gives an equal object back, bit for bit."""
        return {
            "split": self.split.value,
            "tasks": [
                {
                    "task": t.task,
                    "metric": t.metric,
                    "value": t.value,
                    "higher_is_better": t.higher_is_better,
                    "aggregation": t.aggregation,
                    "items": [i.item for i in t.items],
                    "values": [i.value for i in t.items],
                    "weights": None if all(i.weight == 1.0 for i in t.items) else [i.weight for i in t.items],
                }
                for t in self.tasks
            ],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Scores:
        """The scores that ``document`` was made from."""
        tasks = []
        for t in document["tasks"]:
            weights = t["weights"] or [1.0] * len(t["items"])
            items = tuple(
                ItemScore(i, v, w) for i, v, w in zip(t["items"], t["values"], weights, strict=True)
            )
            tasks.append(
                TaskScore(t["task"], t["metric"], t["value"], t["higher_is_better"], t["aggregation"], items)
            )
        return cls(Split(document["split"]), tuple(tasks))
