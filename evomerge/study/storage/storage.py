"""The storage of a study: with retries, writes fenced by the lease, and errors without passwords."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from evomerge.study.storage.failures import clean, translate_errors
from evomerge.study.storage.retry import retry, root
from evomerge.study.storage_row import LEASE, LeaseLost, StorageRow

if TYPE_CHECKING:
    from evomerge.study.storage.optuna_log import OptunaLog

__all__ = ["Storage"]

T = TypeVar("T")


class Storage:
    """The few operations that a study needs, each one transaction.

    A transient failure (a lock, a lost connection, a server that restarts) is retried, and nothing counts
    twice because of that. Every other failure, and one that lasts, is a ``StudyError`` without a password.
    Writes need the study's lease, which is checked before and after: ``LeaseLost`` says that another driver
    has it. ``url`` is redacted.
    """

    def __init__(self, log: OptunaLog, url: str, secrets: Sequence[str] = ()) -> None:
        self.url = url
        self._log = log
        self._secrets = tuple(secrets)
        self._leases: dict[str, str] = {}

    def study_names(self) -> tuple[str, ...]:
        """Names of all studies, sorted."""
        return self._retry(lambda _: self._log.study_names())

    def create_study(self, name: str, metrics: Sequence[str]) -> None:
        """Creates an empty study whose values are called ``metrics``, higher is better; unless it exists."""
        self._retry(lambda _: self._log.create_study(name, metrics))

    def attributes(self, name: str) -> dict[str, Any]:
        """User attributes of the study."""
        return self._retry(lambda _: self._log.attributes(name))

    def trials(self, name: str) -> list[StorageRow]:
        """All trials, in the order they were written."""
        return self._retry(lambda _: self._log.trials(name))

    def system_attribute(self, name: str, key: str) -> Any:
        """A system attribute of the study, ``None`` where it is absent."""
        return self._retry(lambda _: self._log.system_attribute(name, key))

    def set_system_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets a system attribute of the study; not fenced."""
        self._retry(lambda _: self._log.set_system_attribute(name, key, value))

    @contextmanager
    def exclusively(self, name: str) -> Iterator[None]:
        """A lock on the study ``name`` that all processes with this storage share.

        Hold it for a few operations only: on a server it is lost with its connection.
        """
        with ExitStack() as stack:
            self._retry(lambda _: stack.enter_context(self._log.exclusive(name)))
            yield

    def hold(self, name: str, lease: str | None) -> None:
        """From now on writes to the study need ``lease``; with ``None`` they are refused."""
        if lease is None:
            self._leases.pop(name, None)
        else:
            self._leases[name] = lease

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets one user attribute of the study, fenced."""
        self._write_fenced(name, lambda _: self._log.set_attribute(name, key, value))

    def add_trial(self, name: str, row: StorageRow) -> int:
        """Writes a finished trial, fenced; its number."""
        return self._write_fenced(name, lambda again: self._log.add_trial(name, row, again=again))

    def beat(self, name: str, key: str, value: str) -> None:
        """Sets a system attribute, fenced, with one attempt; for another thread than the one that writes."""
        with self._translate_errors():
            self._check(name)
            self._log.set_system_attribute(name, key, value)

    def release(self, name: str, lease: str, released: str) -> None:
        """Sets the lease to ``released`` if it is still ``lease``, with one attempt."""
        self.hold(name, None)
        with self._translate_errors():
            self._log.recover()
            with self._log.exclusive(name):
                if self._log.system_attribute(name, LEASE) == lease:
                    self._log.set_system_attribute(name, LEASE, released)

    def close(self) -> None:
        """Releases connections; may be called twice."""
        self._log.close()

    def _write_fenced(self, name: str, write: Callable[[bool], T]) -> T:
        """``write`` between two checks of the lease.

        The first keeps a deposed driver from writing at all. The second detects that the driver was deposed
        meanwhile: then the write does not count, and readers ignore a trial that comes too late (``epochs``).
        """
        self._retry(lambda _: self._check(name))
        written = self._retry(write)
        self._retry(lambda _: self._check(name))
        return written

    def _check(self, name: str) -> None:
        lease = self._leases.get(name)
        if lease is None or self._log.system_attribute(name, LEASE) != lease:
            raise LeaseLost

    def _retry(self, operation: Callable[[bool], T]) -> T:
        def attempt(again: bool) -> T:
            if again:
                self._log.recover()
            return operation(again)

        with self._translate_errors():
            return retry(attempt, lambda e: clean(str(root(e)), self._secrets))

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        with translate_errors(self.url, self._secrets, self._log.damage):
            yield
