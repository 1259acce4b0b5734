"""Items that are added to finished trials: events in the log, merged when a study is read.

An event is a user attribute of the study, ``event/<trial>/<k>/<driver>``: the k-th of that trial. Keys of two
drivers never collide; of two events with one k, that of the later driver counts (the earlier had lost the
study before its write was confirmed, or the later one would have seen it and gone on with k + 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evomerge.fitness.scores import Scores, TaskScore
from evomerge.study.item_scores import ItemLists
from evomerge.study.lease import Epochs
from evomerge.study.serialization import event_of
from evomerge.study.trial import MoreItems, Trial

__all__ = ["event_key", "merge", "ordered_events"]

_EVENT = "event/"


def event_key(number: int, k: int, driver: str) -> str:
    """The key under which the ``k``-th event of trial ``number`` is stored."""
    return f"{_EVENT}{number}/{k}/{driver}"


def ordered_events(
    attributes: Mapping[str, Any], epochs: Epochs, lists: ItemLists
) -> dict[int, tuple[MoreItems, ...]]:
    """The events among the ``attributes`` of a study, by trial number, in order.

    Raises:
        one of ``DAMAGE_ERRORS``: One of them was damaged.
    """
    latest: dict[tuple[int, int], tuple[int, str]] = {}
    for key in attributes:
        if key.startswith(_EVENT):
            trial, position, driver = key.removeprefix(_EVENT).split("/")
            place = int(trial), int(position)
            latest[place] = max(latest.get(place, (-2, "")), (epochs.rank(driver), key))
    found: dict[int, tuple[MoreItems, ...]] = {}
    for number, k in sorted(latest):
        event = event_of(attributes[latest[number, k][1]], lists)
        found[number] = (*found.get(number, ()), event)
    return found


def merge(trial: Trial, event: MoreItems) -> Trial:
    """``trial`` with the items of ``event``, and the values that it has with them.

    Raises:
        ValueError: The trial has some of the items already, or was not scored on one of the tasks.
    """
    if trial.scores is None:
        raise ValueError("it has no scores")
    added = {(task.task, task.metric): task for task in event.scores.tasks}
    tasks = tuple(_merge_task(task, added.pop((task.task, task.metric), None)) for task in trial.scores.tasks)
    if added:
        raise ValueError(f"it was not scored on {next(iter(added))[0]!r}")
    scores = Scores(trial.scores.split, tasks)
    return replace(trial, values=event.values, scores=scores, basis=event.basis)


def _merge_task(task: TaskScore, more: TaskScore | None) -> TaskScore:
    if more is None:
        return task
    both = {item.item for item in task.items} & {item.item for item in more.items}
    if both:
        raise ValueError(f"it has the item {min(both)!r} of {task.task!r} already")
    return replace(task, value=more.value, items=(*task.items, *more.items))
