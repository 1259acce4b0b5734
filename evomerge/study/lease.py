"""One driver per study: the lease that a driver holds while it writes, and its heartbeat.

A lease is a system attribute of the study; it never changes while it is held, and every write looks at it
before and after. It is taken under a lock that all processes share, so that of two that take it at once one
sees the other. The heartbeat is another attribute, renewed by a thread. Whether a holder lives is known at
once on its own machine (process and start time); from another one, by the heartbeat.

Optuna's interface cannot look at the lease and write a trial in one transaction. So each trial names its
driver, and the study lists its drivers, each with the first number that its trials may have (``epochs``): a
trial that a deposed driver wrote in the last moment has a number that is no longer its own, and is ignored.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import StudyError
from evomerge.study.storage_row import DAMAGE_ERRORS, EPOCHS, LEASE, LeaseLost

if TYPE_CHECKING:
    from evomerge.study.storage import Storage

__all__ = ["DEAD_AFTER_S", "Driver", "Epochs", "Holder", "Lease", "driver_of", "holder_of"]

BEAT_S = 15.0
"""Time between two heartbeats."""

DEAD_AFTER_S = 60.0
"""Age of a heartbeat from which a driver on another machine counts as dead."""

WATCH_S = 35.0
"""How long an old heartbeat is watched before its driver is replaced: it may only have another clock, or come
back from an outage of the database. More than two beats."""

RELEASED = ""

_BEAT = "evomerge:heartbeat"
_JOIN_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. ``machine`` is equal where process ids mean the same; ``since`` is UTC."""

    token: str
    machine: str
    host: str
    pid: int
    started: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} UTC"


@dataclass(frozen=True)
class Driver:
    """The driver that holds a study, as a reader sees it. ``since`` is UTC.

    ``alive`` is certain on the driver's own machine; from another one it means that the last sign of life is
    recent enough. ``silent_s`` is its age in seconds, by the reader's clock.
    """

    host: str
    pid: int
    since: str
    alive: bool
    silent_s: float


class Lease:
    """The right to write to a study, from construction to ``release``.

    Raises:
        StudyError: Another driver has it and lives.
    """

    def __init__(self, storage: Storage, study: str) -> None:
        self._storage = storage
        self._study = study
        self._holder = _myself()
        self._text = json.dumps(asdict(self._holder))
        self._stop = threading.Event()
        self._take()
        storage.hold(study, self._text)
        self._thread = threading.Thread(target=self._beat, name="evomerge-heartbeat", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Names the driver in what it writes."""
        return self._holder.token

    def begin(self, first: int) -> None:
        """Note that trials from number ``first`` on are this driver's; call it before anything is written.

        Raises:
            StudyError: Another driver has taken the study over.
        """
        with self._storage.exclusively(self._study):
            if self._storage.system_attribute(self._study, LEASE) != self._text:
                raise self.lost_error()
            before = self._storage.system_attribute(self._study, EPOCHS) or []
            now = [*before, [self._holder.token, first]]
            self._storage.set_system_attribute(self._study, EPOCHS, now)

    def release(self) -> None:
        """Give up the lease, so that the next driver need not wait; may be called twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(timeout=_JOIN_S)
        # A storage that is gone is not waited for: the lease of an ended process does not block others.
        with contextlib.suppress(StudyError):
            self._storage.release(self._study, self._text, RELEASED)

    def lost_error(self) -> StudyError:
        """What to raise when a write found that another driver has the study."""
        other = holder_of(self._storage, self._study)
        return StudyError(
            f"study {self._study!r} in {self._storage.url}",
            f"another driver took it over ({other or 'and has ended'}), so this one stops",
            "Every trial it had finished is kept. Run one driver per study.",
        )

    def _take(self) -> None:
        free: str | None = None  # a lease that need not be watched again
        while True:
            with self._storage.exclusively(self._study):
                old = self._storage.system_attribute(self._study, LEASE)
                other = _parse_holder(old)
                watch = other is not None and old != free and not self._is_dead(other)
                if not watch:
                    self._storage.set_system_attribute(self._study, LEASE, self._text)
                    return
            if other is not None:
                self._watch(other)
            free = old

    def _is_dead(self, other: Holder) -> bool:
        """Whether that is certain; ``False``: it may be.

        Raises:
            StudyError: It lives.
        """
        mine = self._holder
        if other.machine == mine.machine:
            # A second driver in this very process replaces the first, which then refuses to write.
            if other.pid == mine.pid or _start_time(other.pid) != other.started:
                return True
            raise self._taken_error(other, "it is running")
        return False

    def _watch(self, other: Holder) -> None:
        """Return when ``other``, on another machine, gives no sign of life.

        Raises:
            StudyError: It does.
        """
        age = _age(self._storage, self._study, other)
        if not 0 <= age <= DEAD_AFTER_S:
            _log.warning(
                "Study %r was held by %s; its last sign of life is %.0f s old. Watching for %.0f s.",
                self._study,
                other,
                age,
                WATCH_S,
            )
            if not self._moves():
                return
        age = max(_age(self._storage, self._study, other), 0)
        raise self._taken_error(other, f"its last sign of life came {age:.0f} s ago")

    def _taken_error(self, other: Holder, sign: str) -> StudyError:
        return StudyError(
            f"study {self._study!r} in {self._storage.url}",
            f"another driver is at work on it: {other}; {sign}",
            "Wait for it, or end it. One that died is replaced at once on its own machine, elsewhere "
            f"{DEAD_AFTER_S:.0f} s after its last sign of life.",
        )

    def _moves(self) -> bool:
        """Whether lease or heartbeat change while they are watched."""
        until = time.monotonic() + WATCH_S
        before = self._signs()
        while time.monotonic() < until:
            time.sleep(min(1.0, WATCH_S))
            if self._signs() != before:
                return True
        return False

    def _signs(self) -> tuple[str | None, str | None]:
        keys = LEASE, _BEAT
        lease, beat = (self._storage.system_attribute(self._study, key) for key in keys)
        return lease, beat

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            beat = json.dumps({"token": self._holder.token, "at": _now()})
            try:
                self._storage.beat(self._study, _BEAT, beat)
            except StudyError:  # the next beat may succeed; a failing write reports the error
                continue
            except LeaseLost:  # the next write says so
                return


class Epochs:
    """Which trials count: those of each driver until the next one began."""

    def __init__(self, stored: object) -> None:
        """From the study's system attribute.

        Raises:
            one of ``DAMAGE_ERRORS``: It was damaged.
        """
        listed = [(str(token), int(first)) for token, first in stored or ()]  # type: ignore[attr-defined]
        self._order = {token: i for i, (token, _) in enumerate(listed)}
        self._ends = {token: end for (token, _), (_, end) in pairwise(listed)}

    def counts(self, writer: str | None, number: int) -> bool:
        """Whether a trial that ``writer`` wrote under ``number`` counts; without a writer, it does."""
        return writer is None or number < self._ends.get(writer, number + 1)

    def rank(self, writer: str) -> int:
        """The place of the driver among all."""
        return self._order.get(writer, -1)


def holder_of(storage: Storage, study: str) -> Holder | None:
    """Who holds the study's lease, dead or alive."""
    return _parse_holder(storage.system_attribute(study, LEASE))


def driver_of(storage: Storage, study: str) -> Driver | None:
    """Who holds the study's lease, and whether it lives; ``None`` if it was given back, or never taken."""
    holder = holder_of(storage, study)
    if holder is None:
        return None
    age = max(0.0, _age(storage, study, holder))
    here = holder.machine == _machine()
    alive = _start_time(holder.pid) == holder.started if here else age <= DEAD_AFTER_S
    return Driver(holder.host, holder.pid, holder.since, alive, age)


def _age(storage: Storage, study: str, holder: Holder) -> float:
    """Seconds since the holder's last sign of life, by this machine's clock."""
    beat = _json(storage.system_attribute(study, _BEAT))
    said = beat.get("at") if beat.get("token") == holder.token else holder.since
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(str(said)).replace(tzinfo=UTC)).total_seconds()
    except DAMAGE_ERRORS:
        raise _damage_error() from None


def _parse_holder(text: str | None) -> Holder | None:
    document = _json(text)
    if not document:
        return None
    given: dict[str, Any] = {f.name: document.get(f.name) for f in fields(Holder)}
    if not all(isinstance(v, int if name == "pid" else str) for name, v in given.items()):
        raise _damage_error()
    return Holder(**given)


def _json(text: str | None) -> dict[str, Any]:
    try:
        document = json.loads(text) if text else {}
    except DAMAGE_ERRORS:
        raise _damage_error() from None
    if not isinstance(document, dict):
        raise _damage_error()
    return document


def _damage_error() -> StudyError:
    return StudyError("the study", "is damaged: who drives it cannot be read")


def _myself() -> Holder:
    pid = os.getpid()
    return Holder(uuid.uuid4().hex, _machine(), socket.gethostname(), pid, _start_time(pid), _now())


def _now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def _machine() -> str:
    """What two processes share if their process ids name the same processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"  # containers share the first, not the second
    except OSError:
        return socket.gethostname()


def _start_time(pid: int) -> str:
    """When process ``pid`` was started, in the machine's own count; empty if there is none."""
    if Path("/proc/self/stat").exists():
        try:
            # The second field, in brackets, is a name that may hold anything.
            state, *fields = (
                Path(f"/proc/{pid}/stat")
                .read_text(encoding="ascii", errors="replace")
                .rpartition(")")[2]
                .split()
            )
        except OSError:
            return ""
        return "" if state in "ZX" else fields[18]  # a zombie has ended, but was not waited for yet
    if sys.platform == "win32":  # where signal 0 ends the process
        return "unknown"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
