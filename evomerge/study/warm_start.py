"""What a study took over from another when it began: kept in its own log, independent of the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.study.item_scores import ItemLists
from evomerge.study.serialization import split_result_of, split_text
from evomerge.study.storage_row import json_text
from evomerge.study.trial import SplitResult

__all__ = [
    "WARM_START",
    "TakenOver",
    "WarmStart",
    "warm_start_of",
    "warm_start_texts",
    "warm_started_experiment",
]

WARM_START = "warm_start"
"""User attribute of a study; written last, so that everything it refers to is complete."""

_RESULTS = "warm_start:"
_IN_ONE_ATTRIBUTE = 64


@dataclass(frozen=True)
class TakenOver:
    """The result of a trial of another study, on search items."""

    name: str
    """Of the trial, with its study: ``STUDY:g3.1``."""
    result: SplitResult


@dataclass(frozen=True)
class WarmStart:
    """Where a search starts in addition to its own starts, and results that need not be evaluated again.

    ``vectors`` are points of the new study's space, the best first. ``results`` are by the digest of the
    recipe. ``notes`` say what could not be taken over.
    """

    source: str
    vectors: tuple[tuple[float, ...], ...] = ()
    results: Mapping[str, TakenOver] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    experiment: str = ""
    """Digest of the experiment that it was found for: it is valid for no other."""


def warm_start_texts(warm: WarmStart, lists: ItemLists) -> Iterator[tuple[str, str]]:
    """Keys and texts of the attributes that hold ``warm``, to be written in this order.

    The study must hold what ``lists`` misses of the results' scores.
    """
    yield WARM_START, json_text(None)  # an earlier one, which no trial has seen yet, no longer counts
    count = 0
    for some in _batches(sorted(warm.results.items())):
        yield (
            f"{_RESULTS}{count}",
            json_text({digest: [t.name, split_text(t.result, lists)] for digest, t in some}),
        )
        count += 1
    whole = {
        "source": warm.source,
        "vectors": warm.vectors,
        "notes": warm.notes,
        "experiment": warm.experiment,
        "attributes": count,
    }
    yield WARM_START, json_text(whole)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), _IN_ONE_ATTRIBUTE):
        yield items[first : first + _IN_ONE_ATTRIBUTE]


def warm_start_of(attributes: Mapping[str, Any], lists: ItemLists) -> WarmStart | None:
    """What the ``attributes`` of a study hold; ``None`` for one that took nothing over.

    Raises:
        one of ``DAMAGE_ERRORS``: They were damaged.
    """
    stored = json.loads(attributes.get(WARM_START, "null"))
    if stored is None:
        return None
    results = {}
    for number in range(int(stored["attributes"])):
        for digest, (name, result) in json.loads(attributes[f"{_RESULTS}{number}"]).items():
            results[digest] = TakenOver(str(name), split_result_of(result, lists))
    vectors = tuple(tuple(float(x) for x in vector) for vector in stored["vectors"])
    notes, experiment = tuple(stored["notes"]), str(stored.get("experiment", ""))
    return WarmStart(str(stored["source"]), vectors, results, notes, experiment)


def warm_started_experiment(attributes: Mapping[str, Any]) -> str | None:
    """Digest of the experiment for which the study took something over; ``None`` where it took nothing.

    Raises:
        one of ``DAMAGE_ERRORS``: The attributes were damaged.
    """
    stored = json.loads(attributes.get(WARM_START, "null"))
    return None if stored is None else str(stored.get("experiment", ""))
