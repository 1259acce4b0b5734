"""Where results are stored that come after a trial: on other splits, and by its tasks' own metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.fitness.scores import Split
from evomerge.study.item_scores import ItemLists
from evomerge.study.serialization import split_result_of
from evomerge.study.trial import SplitResult

__all__ = ["LaterResults", "later_results", "metric_key", "split_key"]

_BY_METRIC = "metric/search/"


def split_key(split: Split, number: int) -> str:
    """The user attribute that holds what trial ``number`` reached on ``split``."""
    return f"{split.value}/{number}"


def metric_key(number: int) -> str:
    """The user attribute with what trial ``number`` reached by its tasks' own metrics on search items.

    A reader that does not know of it takes it for none of its own.
    """
    return f"{_BY_METRIC}{number}"


@dataclass(frozen=True)
class LaterResults:
    """All of them in a study, by trial number."""

    splits: dict[tuple[Split, int], SplitResult] = field(default_factory=dict)
    by_metric: dict[int, SplitResult] = field(default_factory=dict)


def later_results(attributes: Mapping[str, Any], numbers: Collection[int], lists: ItemLists) -> LaterResults:
    """Those among the ``attributes`` of a study that belong to the trials ``numbers``.

    Raises:
        one of ``DAMAGE_ERRORS``: One of them was damaged.
    """
    found = LaterResults()
    for key, text in attributes.items():
        kind, _, number = key.rpartition("/")
        if not number.isdecimal() or int(number) not in numbers:
            continue
        if f"{kind}/" == _BY_METRIC:
            found.by_metric[int(number)] = split_result_of(text, lists)
        elif "/" not in kind:
            found.splits[Split(kind), int(number)] = split_result_of(text, lists)
    return found
