"""How trials, events and results of other splits are serialized.

Format 2: what a person wants to read of a trial is one user attribute each; vector, parameters and item
scores are system attributes. Format 1 (release 0.1.0): one user attribute for all of it, one for the item
scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from evomerge.errors import FailureKind
from evomerge.recipe import Value
from evomerge.study.item_scores import ItemLists, Stored, StoredScores, scores_document, scores_from
from evomerge.study.storage_row import MAIN, StorageRow, json_text
from evomerge.study.trial import Basis, MoreItems, SplitResult, Trial
from evomerge.workers.jobs import Failure, Seconds

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = [
    "event_of",
    "event_text",
    "is_trial",
    "row_of",
    "scores_of",
    "split_result_of",
    "split_snapshot",
    "split_text",
    "trial_of",
    "trial_snapshot",
    "writer_of",
]

_SCORES = "scores"
"""Item scores are one JSON text, not nested values: Optuna keeps every attribute in memory."""

_SYSTEM_SCORES = "evomerge:scores"
_OF_TASK = "score/"


class _StoredFailure(Stored):
    kind: str
    reason: str


class _StoredSeconds(Stored):
    materialize: float
    evaluate: float


class _StoredTrial(Stored):
    """All of a trial in format 1."""

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


class _StoredAttributes(Stored):
    """User attributes of a trial."""

    kind: Literal["baseline", "candidate"]
    name: str
    generation: int
    index: int
    recipe: str
    fingerprint: str | None = None
    failure: str | None = None
    reason: str | None = None
    cached_from: str | None = None
    config: str | None = None
    same_weights_as: str | None = None
    attempts: int
    seconds_materialize: float
    seconds_evaluate: float


class _StoredBasis(Stored):
    items: int | None
    measure: str
    estimator: str
    standard_error: list[float] | None


class _StoredMain(Stored):
    """The system attribute of a trial."""

    place: list[int]
    writer: str
    vector: list[float]
    parameters: dict[str, Value]
    basis: _StoredBasis


class _StoredEvent(Stored):
    kind: Literal["items"]
    values: list[float]
    scores: dict[str, Any]
    basis: _StoredBasis


def row_of(
    trial: Trial, distributions: Mapping[str, BaseDistribution], lists: ItemLists, writer: str
) -> StorageRow:
    """``trial`` as the driver ``writer`` stores it; parameters without a distribution are not Optuna's.

    The study must hold what ``lists`` misses of its scores.
    """
    system: dict[str, Any] = {
        MAIN: {
            "place": list(trial.place),
            "writer": writer,
            "vector": list(trial.vector),
            "parameters": dict(trial.parameters),
            "basis": _basis_document(trial.basis),
        }
    }
    if trial.scores is not None:
        system[_SYSTEM_SCORES] = json_text(scores_document(trial.scores, lists))
    known = {n: (distributions[n], v) for n, v in trial.parameters.items() if n in distributions}
    return StorageRow(
        parameters=known,
        values=trial.values or None,
        attributes=_attributes(trial),
        system=system,
        ranked=trial.kind == "candidate",
    )


def _attributes(trial: Trial) -> dict[str, Any]:
    """The readable attributes of ``trial``; what is absent is left out."""
    tasks = () if trial.scores is None else trial.scores.tasks
    attributes = {
        "name": trial.name,
        "kind": trial.kind,
        "generation": trial.generation,
        "index": trial.index,
        **{_OF_TASK + task.task: task.value for task in tasks},
        "fingerprint": trial.fingerprint,
        "recipe": trial.recipe,
        "seconds_materialize": trial.seconds.materialize,
        "seconds_evaluate": trial.seconds.evaluate,
        "attempts": trial.attempts,
        "cached_from": trial.cached_from,
        "config": trial.config,
        "same_weights_as": trial.same_weights_as,
        "failure": None if trial.failure is None else trial.failure.kind.value,
        "reason": None if trial.failure is None else trial.failure.reason,
    }
    return {key: value for key, value in attributes.items() if value is not None}


def is_trial(row: StorageRow) -> bool:
    """Whether evomerge wrote the trial in ``row``."""
    return MAIN in row.system or MAIN in row.attributes


def writer_of(row: StorageRow) -> str | None:
    """The driver that wrote the trial in ``row``; ``None`` in format 1, which did not note it."""
    return _StoredMain.model_validate(row.system[MAIN]).writer if MAIN in row.system else None


def trial_of(row: StorageRow, lists: ItemLists) -> Trial:
    """The trial in ``row``, in whatever format.

    Raises:
        one of ``DAMAGE_ERRORS``: The row was damaged.
    """
    if row.values is not None and not all(isinstance(value, int | float) for value in row.values):
        raise TypeError(f"values are numbers, not {row.values!r}")
    if MAIN not in row.system:
        return _trial_of_format_1(row, lists)
    shown = _StoredAttributes.model_validate(dict(row.attributes))
    main = _StoredMain.model_validate(row.system[MAIN])
    return Trial(
        kind=shown.kind,
        name=shown.name,
        generation=shown.generation,
        index=shown.index,
        recipe=shown.recipe,
        vector=tuple(main.vector),
        parameters=row.system[MAIN]["parameters"],
        values=row.values or (),
        scores=scores_of(row, lists),
        failure=None if shown.failure is None else Failure(FailureKind(shown.failure), shown.reason or ""),
        fingerprint=shown.fingerprint,
        seconds=Seconds(shown.seconds_materialize, shown.seconds_evaluate),
        cached_from=shown.cached_from,
        attempts=shown.attempts,
        config=shown.config,
        same_weights_as=shown.same_weights_as,
        number=row.number,
        basis=_basis_from(main.basis),
    )


def _trial_of_format_1(row: StorageRow, lists: ItemLists) -> Trial:
    stored = row.attributes[MAIN]
    _StoredTrial.model_validate(stored)
    return Trial(
        kind=stored["kind"],
        name=stored["name"],
        generation=stored["generation"],
        index=stored["index"],
        recipe=stored["recipe"],
        vector=tuple(stored["vector"]),
        parameters=stored["values"],
        values=row.values or (),
        scores=scores_of(row, lists),
        failure=_failure_from(stored["failure"]),
        fingerprint=stored["fingerprint"],
        seconds=Seconds(**stored["seconds"]),
        cached_from=stored["cached_from"],
        attempts=stored["attempts"],
        number=row.number,
    )


def scores_of(row: StorageRow, lists: ItemLists) -> StoredScores | None:
    """The scores in ``row``, parsed on first access."""
    text = row.system.get(_SYSTEM_SCORES) if MAIN in row.system else row.attributes.get(_SCORES)
    return None if text is None else StoredScores(text, lists)


def event_text(event: MoreItems, lists: ItemLists) -> str:
    """``event`` as it is stored."""
    return json_text(
        {
            "kind": "items",
            "values": list(event.values),
            "scores": scores_document(event.scores, lists),
            "basis": _basis_document(event.basis),
        }
    )


def event_of(text: str, lists: ItemLists) -> MoreItems:
    """The event that ``event_text`` wrote.

    Raises:
        one of ``DAMAGE_ERRORS``: The text was damaged.
    """
    stored = _StoredEvent.model_validate_json(text)
    return MoreItems(tuple(stored.values), scores_from(stored.scores, lists), _basis_from(stored.basis))


def split_text(result: SplitResult, lists: ItemLists) -> str:
    """``result`` as it is stored."""
    return json_text(
        {
            "scores": None if result.scores is None else scores_document(result.scores, lists),
            "failure": _failure_document(result.failure),
            "fingerprint": result.fingerprint,
        }
    )


def split_result_of(text: str, lists: ItemLists) -> SplitResult:
    """The result that ``split_text`` wrote.

    Raises:
        one of ``DAMAGE_ERRORS``: The text was damaged.
    """
    stored = json.loads(text)
    scores = None if stored["scores"] is None else scores_from(stored["scores"], lists)
    return SplitResult(scores, _failure_from(stored["failure"]), stored["fingerprint"])


def _failure_document(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else {"kind": failure.kind.value, "reason": failure.reason}


def _failure_from(stored: Mapping[str, str] | None) -> Failure | None:
    return None if stored is None else Failure(FailureKind(stored["kind"]), stored["reason"])


def _basis_document(basis: Basis) -> dict[str, Any]:
    errors = basis.standard_error
    return {
        "items": basis.items,
        "measure": basis.measure,
        "estimator": basis.estimator,
        "standard_error": None if errors is None else list(errors),
    }


def _basis_from(stored: _StoredBasis) -> Basis:
    errors = stored.standard_error
    return Basis(stored.items, stored.measure, stored.estimator, None if errors is None else tuple(errors))


def trial_snapshot(trial: Trial) -> dict[str, Any]:
    """What must be equal between two runs of one search.

    Not whether a baseline with the same weights answered it: its scores are the same either way, and releases
    before 0.2 scored it.
    """
    several = {} if len(trial.values) < 2 else {"objectives": list(trial.values)}
    return {
        "kind": trial.kind,
        "name": trial.name,
        "generation": trial.generation,
        "index": trial.index,
        "recipe": trial.recipe,
        "vector": list(trial.vector),
        "values": dict(trial.parameters),
        "score": trial.score,
        "cached_from": trial.cached_from,
        **several,
        **split_snapshot(SplitResult(trial.scores, trial.failure, trial.fingerprint)),
    }


def split_snapshot(result: SplitResult) -> dict[str, Any]:
    """As ``trial_snapshot``; without the wording of a failure."""
    return {
        "scores": None if result.scores is None else result.scores.document(),
        "failure": None if result.failure is None else result.failure.kind.value,
        "fingerprint": result.fingerprint,
    }
