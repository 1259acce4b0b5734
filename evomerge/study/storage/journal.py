"""A study in an Optuna storage, through Optuna's own interface: any database, or a journal file.

Everything here is one transaction (in a journal: one line). Writes to a study are fenced: they happen only
as long as the study's lease is the one that ``hold`` named.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import DuplicatedStudyError
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.errors import StudyError
from evomerge.study.storage_row import LEASE, MAIN, SENSELESS, LeaseLost, Row, json_text

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

__all__ = ["Backend", "DistributionTexts", "JournalBackend"]

KNOWN_OPTUNA = ("4.", "5.")
"""Versions whose journals have the lines that are written here."""

_SET_STUDY_USER_ATTR, _SET_STUDY_SYSTEM_ATTR, _CREATE_TRIAL = 2, 3, 4
"""What the lines of a journal say: Optuna's JournalOperation."""

LOCK_SECONDS = 60
"""How long a writer waits for another process that writes to the same file."""


class Backend:
    """Any storage of Optuna's. Its interface has no transactions, so the fence leaves a gap of one call."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._ids: dict[str, int] = {}
        self._fences: dict[int, str] = {}

    def study_names(self) -> tuple[str, ...]:
        """Names of all studies, sorted."""
        return tuple(sorted(str(s.study_name) for s in self._storage.get_all_studies()))

    def create_study(self, name: str) -> None:
        """A study, empty if it is not there; Optuna's value is the score, so it maximizes."""
        try:
            self._storage.create_new_study([StudyDirection.MAXIMIZE], study_name=name)
        except DuplicatedStudyError:  # by another driver, or by an attempt that seemed to have failed
            return

    def attributes(self, name: str) -> dict[str, Any]:
        """User attributes of the study."""
        return self._storage.get_study_user_attrs(self.study_id(name))

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets one user attribute of the study."""
        study = self.study_id(name)
        self._check(study)
        self._storage.set_study_user_attr(study, key, value)

    def trials(self, name: str) -> list[Row]:
        """All trials, in the order they were written."""
        stored = self._storage.get_all_trials(self.study_id(name), deepcopy=False)
        # Not `value`, which raises where somebody gave a study several objectives.
        return [Row({}, t.values[0] if t.values else None, t.user_attrs, t.number) for t in stored]

    def add_trial(self, name: str, row: Row, *, again: bool) -> int:
        """Writes a finished trial; its number. ``again``: an earlier attempt may have written it."""
        study = self.study_id(name)
        self._check(study)
        if again:
            for trial in reversed(self._storage.get_all_trials(study, deepcopy=False)):
                if trial.user_attrs.get(MAIN) == row.attributes[MAIN]:
                    return trial.number
        # What Study.add_trial calls; that one does not tell the number.
        trial_id = self._storage.create_new_trial(study, template_trial=_frozen(row))
        return self._storage.get_trial(trial_id).number

    def system_attribute(self, name: str, key: str) -> str | None:
        """A system attribute of the study, ``None`` where it is absent."""
        value: str | None = self._storage.get_study_system_attrs(self.study_id(name)).get(key)
        return value

    def exchange(self, name: str, key: str, old: str | None, new: str) -> bool:
        """Sets a system attribute if it is still ``old``; whether it did."""
        if self.system_attribute(name, key) != old:
            return False
        self._storage.set_study_system_attr(self.study_id(name), key, new)
        return self.system_attribute(name, key) == new

    def set_system_attribute(self, name: str, key: str, value: str) -> None:
        """Sets a system attribute, fenced; may be called from another thread."""
        study = self.study_id(name)
        self._check(study)
        self._storage.set_study_system_attr(study, key, value)

    def hold(self, name: str, lease: str | None) -> None:
        """From now on writes to the study need ``lease``; with ``None`` they are refused."""
        if lease is None:
            self._fences.pop(self.study_id(name), None)
        else:
            self._fences[self.study_id(name)] = lease

    def recover(self) -> None:
        """Lets go of what a failure may have spoiled."""

    def close(self) -> None:
        """Releases connections; may be called twice."""
        self._storage.remove_session()
        engine = getattr(self._storage, "engine", None)
        if engine is not None:
            engine.dispose()

    def study_id(self, name: str) -> int:
        """The storage's own number of the study."""
        if name not in self._ids:
            self._ids[name] = self._storage.get_study_id_from_name(name)
        return self._ids[name]

    def _check(self, study: int) -> None:
        fence = self._fences.get(study)
        if fence is None or self._storage.get_study_system_attrs(study).get(LEASE) != fence:
            raise LeaseLost


class _Journal(JournalStorage):
    """Optuna's journal; a line that makes no sense is damage to the file, and no bug of Optuna's (5.0).

    An attribute is only written: Optuna would also read what was written since it last read, which is all
    trials of a search with their item scores.
    """

    def __init__(self, file: _FencedFile) -> None:
        self._file = file
        super().__init__(file)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Writes one line."""
        self._write_log(_SET_STUDY_USER_ATTR, {"study_id": study_id, "user_attr": {key: value}})

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Writes one line; may be called from another thread."""
        self._write_log(_SET_STUDY_SYSTEM_ATTR, {"study_id": study_id, "system_attr": {key: value}})

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except SENSELESS:
            raise self._file.damaged() from None


class JournalBackend(Backend):
    """A journal file: one line a write, with the fence checked under the lock that it is written under.

    Trials are written as Optuna would, but their lines are not read back, and constant parts are kept.
    """

    def __init__(self, path: Path) -> None:
        self._file = _FencedFile(path)
        super().__init__(_Journal(self._file))
        self._fences = self._file.fences
        self._writer = uuid.uuid4().hex
        self._texts = DistributionTexts()

    def add_trial(self, name: str, row: Row, *, again: bool) -> int:
        """Writes a finished trial; its number. ``again``: an earlier attempt may have written it."""
        if again or not optuna.__version__.startswith(KNOWN_OPTUNA):
            return super().add_trial(name, row, again=again)
        study, now = self.study_id(name), datetime.now(UTC).isoformat(timespec="microseconds")
        line = {
            "op_code": _CREATE_TRIAL,
            "worker_id": self._writer,
            "study_id": study,
            "datetime_start": now,
            "state": TrialState.FAIL if row.score is None else TrialState.COMPLETE,
            "value": row.score,
            "values": None,
            "datetime_complete": now,
            "distributions": {n: self._texts.of(n, d) for n, (d, _) in row.parameters.items()},
            "params": {n: d.to_internal_repr(v) for n, (d, v) in row.parameters.items()},
            "user_attrs": row.attributes,
            "system_attrs": {},
            "intermediate_values": {},
        }
        self._file.append_logs([line])
        return self._file.trials[study] - 1

    def exchange(self, name: str, key: str, old: str | None, new: str) -> bool:
        """Sets a system attribute if it is still ``old``; whether it did."""
        study = self.study_id(name)
        if key != LEASE:
            return super().exchange(name, key, old, new)
        with self._file.expecting(study, old):
            try:
                self._storage.set_study_system_attr(study, key, new)
            except LeaseLost:
                return False
        return True

    def _check(self, study: int) -> None:
        """Left to the file, which sees what others write in the same moment."""


class _FencedFile(JournalFileBackend):
    """Optuna's journal file, but a line is written only while its study's lease is the expected one.

    The lock is the kernel's on the file itself: it goes with its holder, where Optuna's own lock files have
    to be waited for (30 s) after a kill. Under it, a last line without an end is what a killed writer left.
    """

    def __init__(self, path: Path) -> None:
        self.fences: dict[int, str] = {}
        self._path = path
        self._expected: dict[int, str | None] = {}
        self._leases: dict[int, str] = {}
        self.trials: dict[int, int] = {}
        self._seen = 0
        super().__init__(str(path))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The lines from ``log_number_from`` on."""
        try:
            yield from super().read_logs(log_number_from)
        except (ValueError, RecursionError):
            raise self.damaged() from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes one line each and waits until they are on the disk, or leaves nothing behind.

        Raises:
            LeaseLost: The study's lease is another.
        """
        text = "".join(json_text(log) + "\n" for log in logs)
        with self._locked() as file:
            self._catch_up(file)
            for log in logs:
                self._refuse(log)
            self._append(file, text.encode())
            for log in logs:
                self._note(log)

    @contextmanager
    def expecting(self, study: int, lease: str | None) -> Iterator[None]:
        """Within, the lease of ``study`` may be set, if it is still ``lease``."""
        self._expected[study] = lease
        try:
            yield
        finally:
            del self._expected[study]

    @contextmanager
    def _locked(self) -> Iterator[FileIO]:
        """The file, to be read and appended to."""
        import fcntl

        with self._path.open("ab+", buffering=0) as file:
            until = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.002)
            yield file  # closing it lets go of the lock

    def _catch_up(self, file: FileIO) -> None:
        """Reads what others wrote since, and cuts off a line that nobody finished."""
        if os.fstat(file.fileno()).st_size == self._seen:
            return
        with self._path.open("rb") as lines:
            lines.seek(self._seen)
            for line in lines:
                if not line.endswith(b"\n"):
                    file.truncate(self._seen)
                    break
                try:
                    self._note(json.loads(line))
                except SENSELESS:
                    raise self.damaged() from None
                self._seen += len(line)

    def _note(self, log: Mapping[str, Any]) -> None:
        if log["op_code"] == _CREATE_TRIAL:
            self.trials[log["study_id"]] = self.trials.get(log["study_id"], 0) + 1
        elif log["op_code"] == _SET_STUDY_SYSTEM_ATTR and LEASE in log["system_attr"]:
            self._leases[log["study_id"]] = log["system_attr"][LEASE]

    def _refuse(self, log: Mapping[str, Any]) -> None:
        study = log.get("study_id")
        if study is None:  # the study itself is made
            return
        lease = self._leases.get(study)
        wanted = self._expected[study] if study in self._expected else self.fences.get(study, "")
        if lease != wanted:
            raise LeaseLost

    def damaged(self) -> StudyError:
        """What to raise for a line that is none of ours."""
        return StudyError(
            str(self._path),
            "a line of this journal is damaged",
            "What stands before it can be read once it and the rest are removed.",
        )

    def _append(self, file: FileIO, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:  # a full disk, say; half a line would spoil the next
            file.truncate(self._seen)
            raise
        self._seen += len(data)


class DistributionTexts:
    """Distributions as Optuna's JSON, by parameter, made once."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[BaseDistribution, str]] = {}

    def of(self, name: str, distribution: BaseDistribution) -> str:
        """The JSON of the parameter's distribution."""
        known = self._made.get(name)
        if known is None or known[0] is not distribution:
            known = self._made[name] = distribution, distribution_to_json(distribution)
        return known[1]


def _frozen(row: Row) -> FrozenTrial:
    now = datetime.now()  # noqa: DTZ005 (what Optuna expects)
    if row.score is not None and math.isnan(row.score):
        raise ValueError("a score must be a number")
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.FAIL if row.score is None else TrialState.COMPLETE,
        value=row.score,
        datetime_start=now,
        datetime_complete=now,
        params={name: value for name, (_, value) in row.parameters.items()},
        distributions={name: distribution for name, (distribution, _) in row.parameters.items()},
        user_attrs=dict(row.attributes),
        system_attrs={},
        intermediate_values={},
    )
