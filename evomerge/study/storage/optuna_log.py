"""One Optuna storage, through the public methods of ``BaseStorage`` (verified with Optuna 5.0)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.study.storage_row import MAIN, StorageRow

if TYPE_CHECKING:
    from evomerge.errors import StudyError

__all__ = ["OptunaLog"]


class OptunaLog:
    """The few operations that a study needs, without retries and without checks of the lease.

    ``exclusive`` gives a lock by name that all processes with this storage share. ``damage`` returns what to
    raise where Optuna fails because a file is damaged.
    """

    def __init__(
        self,
        storage: BaseStorage,
        exclusive: Callable[[str], AbstractContextManager[object]],
        damage: Callable[[BaseException], StudyError | None] = lambda _: None,
    ) -> None:
        self.exclusive = exclusive
        self.damage = damage
        self.optuna_storage = storage
        self._ids: dict[str, int] = {}
        self._next: dict[str, int] = {}  # by study: the number behind the last known trial

    def study_names(self) -> tuple[str, ...]:
        """Names of all studies, sorted."""
        return tuple(sorted(str(s.study_name) for s in self.optuna_storage.get_all_studies()))

    def create_study(self, name: str, metrics: Sequence[str]) -> None:
        """Creates a study with values ``metrics``, higher is better; an existing one gets just the names."""
        with suppress(DuplicatedStudyError):  # by another driver, or by an attempt that seemed to have failed
            self.optuna_storage.create_new_study([StudyDirection.MAXIMIZE] * len(metrics), study_name=name)
        study = optuna.load_study(study_name=name, storage=self.optuna_storage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(metrics))

    def attributes(self, name: str) -> dict[str, Any]:
        """User attributes of the study."""
        return dict(self.optuna_storage.get_study_user_attrs(self._id(name)))

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets one user attribute of the study."""
        self.optuna_storage.set_study_user_attr(self._id(name), key, value)

    def system_attribute(self, name: str, key: str) -> Any:
        """A system attribute of the study, ``None`` where it is absent."""
        return self.optuna_storage.get_study_system_attrs(self._id(name)).get(key)

    def set_system_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets a system attribute of the study."""
        self.optuna_storage.set_study_system_attr(self._id(name), key, value)

    def trials(self, name: str) -> list[StorageRow]:
        """All finished trials, in the order they were written; parameters are not read."""
        stored = self.optuna_storage.get_all_trials(self._id(name), deepcopy=False)
        self._next[name] = len(stored)
        return [_storage_row(trial) for trial in stored]

    def add_trial(self, name: str, row: StorageRow, *, again: bool) -> int:
        """Writes a finished trial in one transaction; its number.

        ``again``: an earlier attempt may have written it. Optuna itself repeats a transaction whose answer
        was lost, so there may be two; the number is that of the first, which is the one that counts.
        """
        known = self._next.get(name)
        if known is None:
            known = len(self.trials(name))
        number = self._find(name, row, known, None) if again else None
        if number is None:
            trial = self.optuna_storage.create_new_trial(self._id(name), template_trial=_frozen_trial(row))
            written = self.optuna_storage.get_trial_number_from_id(trial)
            first = self._find(name, row, known, written)
            number = written if first is None else first
            self._next[name] = written + 1
        return number

    def recover(self) -> None:
        """Drops connections that a failure may have broken."""
        self.optuna_storage.remove_session()
        if isinstance(self.optuna_storage, RDBStorage):
            self.optuna_storage.engine.dispose()

    def close(self) -> None:
        """Releases connections; may be called twice."""
        self.recover()

    def _id(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = self.optuna_storage.get_study_id_from_name(name)
        return self._ids[name]

    def _find(self, name: str, row: StorageRow, begin: int, end: int | None) -> int | None:
        """The first number from ``begin``, before ``end`` or the last, at which ``row`` is stored."""
        number = begin
        while end is None or number < end:
            try:
                trial = self.optuna_storage.get_trial_id_from_study_id_trial_number(self._id(name), number)
            except KeyError:
                return None
            if self.optuna_storage.get_trial(trial).system_attrs.get(MAIN) == row.system[MAIN]:
                return number
            number += 1
        return None


def _storage_row(trial: FrozenTrial) -> StorageRow:
    values = None if trial.values is None else tuple(trial.values)
    return StorageRow({}, values, trial.user_attrs, trial.system_attrs, number=trial.number)


def _frozen_trial(row: StorageRow) -> FrozenTrial:
    if any(math.isnan(value) for value in row.values or ()):
        raise ValueError("a value must be a number")
    # Of pruned trials Optuna keeps the values, but never calls one of them the best.
    finished = TrialState.COMPLETE if row.ranked else TrialState.PRUNED
    now = datetime.now()  # noqa: DTZ005 (what Optuna expects)
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.FAIL if row.values is None else finished,
        value=None,
        values=row.values,
        datetime_start=now,
        datetime_complete=now,
        params={name: value for name, (_, value) in row.parameters.items()},
        distributions={name: distribution for name, (distribution, _) in row.parameters.items()},
        user_attrs=dict(row.attributes),
        system_attrs=dict(row.system),
        intermediate_values={},
    )
