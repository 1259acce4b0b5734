"""A trial, what becomes of it on other splits, and how both are written down and read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from evomerge.errors import FailureKind, StudyError
from evomerge.fitness.scores import Scores
from evomerge.recipe import Value
from evomerge.study.storage_row import MAIN, SENSELESS, Row, json_text
from evomerge.workers.jobs import Failure, Seconds

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = [
    "ItemLists",
    "SplitResult",
    "Trial",
    "row_of",
    "scores_of",
    "split_result_of",
    "split_snapshot",
    "split_text",
    "trial_of",
    "trial_snapshot",
]

_SCORES = "scores"
"""Item scores are one JSON text, not nested values: Optuna keeps every attribute in memory."""


class _Stored(BaseModel):
    """What stored text must be before it is believed; fields of later versions are left alone."""

    model_config = ConfigDict(strict=True)


class _StoredFailure(_Stored):
    kind: str
    reason: str


class _StoredSeconds(_Stored):
    materialize: float
    evaluate: float


class _StoredTrial(_Stored):
    kind: Literal["baseline", "candidate"]
    name: str
    generation: int
    index: int
    recipe: str
    vector: list[float]
    values: dict[str, Value]
    failure: _StoredFailure | None
    fingerprint: str | None
    seconds: _StoredSeconds
    cached_from: str | None
    attempts: int


class _StoredTask(_Stored):
    task: str
    metric: str
    value: float
    higher_is_better: bool
    aggregation: str
    items: str
    values: list[float]
    weights: list[float] | None


class _StoredSplit(_Stored):
    split: str
    tasks: list[_StoredTask]


@dataclass(frozen=True)
class Trial:
    """One finished evaluation. ``(generation, index)`` is its identity, not the order it finished in.

    Baselines have ``generation`` -1 and no vector. ``score`` is the fitness on search items, higher is
    better, ``None`` for a failed trial. ``recipe`` is a digest: equal digests are equal recipes.
    ``cached_from`` names the trial whose result answered this one. ``number`` is the study's own count, in
    the order of finishing (-1 until recorded).
    """

    kind: Literal["baseline", "candidate"]
    name: str
    generation: int
    index: int
    recipe: str
    vector: tuple[float, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    score: float | None = None
    scores: Scores | None = None
    failure: Failure | None = None
    fingerprint: str | None = None
    seconds: Seconds = field(default_factory=Seconds)
    cached_from: str | None = None
    attempts: int = 1
    number: int = -1

    @property
    def failed(self) -> bool:
        """Whether there is a failure instead of scores."""
        return self.failure is not None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the study's order."""
        return self.generation, self.index


@dataclass(frozen=True)
class SplitResult:
    """What became of a trial's model on the items of another split: either scores or a failure."""

    scores: Scores | None = None
    failure: Failure | None = None
    fingerprint: str | None = None


class ItemLists:
    """The items of tasks by a digest: each trial has the same ones, so a study stores them once."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[str, ...]] = {}
        self._digests: dict[tuple[str, ...], str] = {}

    def __getitem__(self, digest: str) -> tuple[str, ...]:
        return self._items[digest]

    def digest(self, items: Sequence[str]) -> str:
        """What stands for ``items`` where scores are stored."""
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
        """Takes up an attribute of the study, if it is one of these.

        Raises:
            one of ``SENSELESS``: The text was damaged.
        """
        if key.startswith(_ITEMS):
            items = tuple(_LIST.validate_json(text))
            self._items[key.removeprefix(_ITEMS)] = items


_ITEMS = "items:"
_LIST = TypeAdapter(list[str], config=ConfigDict(strict=True))


class StoredScores(Scores):
    """Scores that are read from their text when somebody looks at them.

    A search looks at few of them again, and the items of ten thousand trials are millions of objects.
    """

    def __init__(self, text: str, lists: ItemLists) -> None:
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "_lists", lists)

    def __getattr__(self, name: str) -> Any:
        """``split`` and ``tasks``, the first time."""
        if name not in ("split", "tasks"):
            raise AttributeError(name)
        try:
            scores = _scores_from(json.loads(self._text), self._lists)
        except SENSELESS:
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


def _scores_from(stored: Any, lists: ItemLists) -> Scores:
    _StoredSplit.model_validate(stored)
    tasks = [{**task, "items": lists[task["items"]]} for task in stored["tasks"]]
    return Scores.from_document({**stored, "tasks": tasks})


def _scores_document(scores: Scores, lists: ItemLists) -> dict[str, Any]:
    document = scores.document()
    for task in document["tasks"]:
        task["items"] = lists.digest(task["items"])
    return document


def row_of(trial: Trial, distributions: Mapping[str, BaseDistribution], lists: ItemLists) -> Row:
    """``trial`` as it is stored; parameters without a distribution are left to its own attribute.

    The study must hold what ``lists`` misses of its scores.
    """
    main = {
        **_asked(trial),
        "failure": _failure_document(trial.failure),
        "fingerprint": trial.fingerprint,
        "seconds": {"materialize": trial.seconds.materialize, "evaluate": trial.seconds.evaluate},
        "cached_from": trial.cached_from,
        "attempts": trial.attempts,
    }
    scores = {} if trial.scores is None else {_SCORES: json_text(_scores_document(trial.scores, lists))}
    known = {n: (distributions[n], v) for n, v in trial.values.items() if n in distributions}
    return Row(known, None if trial.failed else trial.score, {MAIN: main, **scores})


def _asked(trial: Trial) -> dict[str, Any]:
    """What is known of ``trial`` before it is scored."""
    return {
        "kind": trial.kind,
        "name": trial.name,
        "generation": trial.generation,
        "index": trial.index,
        "recipe": trial.recipe,
        "vector": list(trial.vector),
        "values": dict(trial.values),
    }


def trial_of(row: Row, lists: ItemLists) -> Trial:
    """The trial in ``row``.

    Raises:
        one of ``SENSELESS``: The row was damaged.
    """
    stored = row.attributes[MAIN]
    _StoredTrial.model_validate(stored)
    if not isinstance(row.score, int | float | None):
        raise TypeError(f"a score is a number, not {row.score!r}")
    return Trial(
        kind=stored["kind"],
        name=stored["name"],
        generation=stored["generation"],
        index=stored["index"],
        recipe=stored["recipe"],
        vector=tuple(stored["vector"]),
        values=stored["values"],
        score=row.score,
        scores=scores_of(row, lists),
        failure=_failure_from(stored["failure"]),
        fingerprint=stored["fingerprint"],
        seconds=Seconds(**stored["seconds"]),
        cached_from=stored["cached_from"],
        attempts=stored["attempts"],
        number=row.number,
    )


def scores_of(row: Row, lists: ItemLists) -> Scores | None:
    """The scores in ``row``, not read before somebody looks."""
    text = row.attributes.get(_SCORES)
    return None if text is None else StoredScores(text, lists)


def split_text(result: SplitResult, lists: ItemLists) -> str:
    """``result`` as it is stored."""
    return json_text(
        {
            "scores": None if result.scores is None else _scores_document(result.scores, lists),
            "failure": _failure_document(result.failure),
            "fingerprint": result.fingerprint,
        }
    )


def split_result_of(text: str, lists: ItemLists) -> SplitResult:
    """The result that ``split_text`` wrote.

    Raises:
        one of ``SENSELESS``: The text was damaged.
    """
    stored = json.loads(text)
    scores = None if stored["scores"] is None else _scores_from(stored["scores"], lists)
    return SplitResult(scores, _failure_from(stored["failure"]), stored["fingerprint"])


def _failure_document(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else {"kind": failure.kind.value, "reason": failure.reason}


def _failure_from(stored: Mapping[str, str] | None) -> Failure | None:
    return None if stored is None else Failure(FailureKind(stored["kind"]), stored["reason"])


def trial_snapshot(trial: Trial) -> dict[str, Any]:
    """What must be equal between two runs of one search."""
    return {
        **_asked(trial),
        "score": trial.score,
        "cached_from": trial.cached_from,
        **split_snapshot(SplitResult(trial.scores, trial.failure, trial.fingerprint)),
    }


def split_snapshot(result: SplitResult) -> dict[str, Any]:
    """As ``trial_snapshot``; without the wording of a failure."""
    return {
        "scores": None if result.scores is None else result.scores.document(),
        "failure": None if result.failure is None else result.failure.kind.value,
        "fingerprint": result.fingerprint,
    }
