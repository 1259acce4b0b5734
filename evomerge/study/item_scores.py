"""Scores of items as text: the names of items once for a study, the scores read when they are looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from evomerge.errors import StudyError
from evomerge.fitness.scores import Scores
from evomerge.study.storage_row import DAMAGE_ERRORS, json_text

__all__ = ["ItemLists", "Stored", "StoredScores", "scores_document", "scores_from"]


class Stored(BaseModel):
    """Base of the models that stored text is validated with; fields of later versions are ignored."""

    model_config = ConfigDict(strict=True)


class _StoredTask(Stored):
    task: str
    metric: str
    value: float
    higher_is_better: bool
    aggregation: str
    items: str
    values: list[float]
    weights: list[float] | None


class _StoredSplit(Stored):
    split: str
    tasks: list[_StoredTask]


class ItemLists:
    """The items of tasks by a digest: each trial has the same ones, so a study stores them once."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[str, ...]] = {}
        self._digests: dict[tuple[str, ...], str] = {}

    def __getitem__(self, digest: str) -> tuple[str, ...]:
        return self._items[digest]

    def digest(self, items: Sequence[str]) -> str:
        """The digest that replaces ``items`` where scores are stored."""
        key = tuple(items)
        if key not in self._digests:
            self._digests[key] = hashlib.blake2b(json_text(key).encode(), digest_size=8).hexdigest()
        return self._digests[key]

    def missing(self, scores: Scores) -> Iterator[tuple[str, str]]:
        """Key and text of the attributes that a study lacks to hold ``scores``; to be given to ``add``."""
        for task in scores.tasks:
            items = tuple(item.item for item in task.items)
            digest = self.digest(items)
            if digest not in self._items:
                yield _ITEMS + digest, json_text(items)

    def add(self, key: str, text: str) -> None:
        """Reads an attribute of the study, if it is a list of items.

        Raises:
            one of ``DAMAGE_ERRORS``: The text was damaged.
        """
        if key.startswith(_ITEMS):
            items = tuple(_LIST.validate_json(text))
            self._items[key.removeprefix(_ITEMS)] = items


_ITEMS = "items:"
_LIST = TypeAdapter(list[str], config=ConfigDict(strict=True))


class StoredScores(Scores):
    """Scores that are parsed from their text on first access.

    A search reads few of them again, and the items of ten thousand trials are millions of objects.
    """

    def __init__(self, text: str, lists: ItemLists) -> None:
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "_lists", lists)

    def __getattr__(self, name: str) -> Any:
        """``split`` and ``tasks``, the first time."""
        if name not in ("split", "tasks"):
            raise AttributeError(name)
        try:
            scores = scores_from(json.loads(self._text), self._lists)
        except DAMAGE_ERRORS:
            raise StudyError("the study", "is damaged: the scores of a trial cannot be read") from None
        object.__setattr__(self, "split", scores.split)
        object.__setattr__(self, "tasks", scores.tasks)
        return getattr(scores, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return (self.split, self.tasks) == (other.split, other.tasks)

    def __hash__(self) -> int:
        return hash((self.split, self.tasks))

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredScores, (self._text, self._lists)


def scores_from(stored: Any, lists: ItemLists) -> Scores:
    """The scores that ``scores_document`` wrote.

    Raises:
        one of ``DAMAGE_ERRORS``: The document was damaged.
    """
    _StoredSplit.model_validate(stored)
    tasks = [{**task, "items": lists[task["items"]]} for task in stored["tasks"]]
    return Scores.from_document({**stored, "tasks": tasks})


def scores_document(scores: Scores, lists: ItemLists) -> dict[str, Any]:
    """``scores`` as plain JSON, with digests for the names of items."""
    document = scores.document()
    for task in document["tasks"]:
        task["items"] = lists.digest(task["items"])
    return document
