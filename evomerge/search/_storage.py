"""Where studies lie: SQLite, PostgreSQL or a journal file. Retries, and errors without passwords."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from evomerge.errors import StudyError
from evomerge.search._foreign import refuse_foreign_database, refuse_foreign_journal
from evomerge.search._retry import lasting, root

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from evomerge.search._backends import Backend
    from evomerge.search._rows import Row

__all__ = ["Storage", "open_storage", "refuse_foreign", "shown", "storage_file"]

EXAMPLES = "Expected sqlite:///study.db, postgresql+psycopg://user@host/database or journal:///study.log."
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30
"""How long a database server may say nothing before its connection counts as lost."""
LOCK_SECONDS = 60
"""How long a writer waits for another process that writes to the same SQLite file."""

T = TypeVar("T")


class Storage:
    """The few things that a study asks of a storage, each one transaction.

    A failure that may pass (a lock, a lost connection, a server that restarts) is waited for, and nothing is
    written twice by that. Every other failure, and one that does not pass, is a ``StudyError`` without a
    password. Writes need the study's lease: ``LeaseLost`` says that another driver has it.
    """

    def __init__(self, backend: Backend, url: str, secrets: Sequence[str] = ()) -> None:
        self.url = shown(url)
        self._backend = backend
        self._secrets = tuple(secrets)

    def study_names(self) -> tuple[str, ...]:
        """Names of all studies, sorted."""
        return self._lasting(lambda _: self._backend.study_names())

    def create_study(self, name: str) -> None:
        """An empty study, unless it is there."""
        self._lasting(lambda _: self._backend.create_study(name))

    def attributes(self, name: str) -> dict[str, Any]:
        """User attributes of the study."""
        return self._lasting(lambda _: self._backend.attributes(name))

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets one user attribute of the study."""
        self._lasting(lambda _: self._backend.set_attribute(name, key, value))

    def trials(self, name: str) -> list[Row]:
        """All trials, in the order they were written."""
        return self._lasting(lambda _: self._backend.trials(name))

    def add_trial(self, name: str, row: Row) -> int:
        """Writes a finished trial; its number."""
        return self._lasting(lambda again: self._backend.add_trial(name, row, again=again))

    def system_attribute(self, name: str, key: str) -> str | None:
        """A system attribute of the study, ``None`` where it is absent."""
        return self._lasting(lambda _: self._backend.system_attribute(name, key))

    def exchange(self, name: str, key: str, old: str | None, new: str) -> bool:
        """Sets a system attribute to ``new``, which nobody else ever sets, if it is still ``old``."""

        def attempt(again: bool) -> bool:
            if again and self._backend.system_attribute(name, key) == new:
                return True
            return self._backend.exchange(name, key, old, new)

        return self._lasting(attempt)

    def hold(self, name: str, lease: str | None) -> None:
        """From now on writes to the study need ``lease``; with ``None`` they are refused."""
        self._lasting(lambda _: self._backend.hold(name, lease))

    def beat(self, name: str, key: str, value: str) -> None:
        """Sets a system attribute, with one attempt; for another thread than the one that writes."""
        with _guarded(self.url, self._secrets):
            self._backend.set_system_attribute(name, key, value)

    def let_go(self, name: str, key: str, old: str, new: str) -> None:
        """Sets a system attribute if it is still ``old``, with one attempt."""
        with _guarded(self.url, self._secrets):
            self._backend.recover()
            self._backend.exchange(name, key, old, new)

    def close(self) -> None:
        """Releases connections; may be called twice."""
        self._backend.close()

    def _lasting(self, operation: Callable[[bool], T]) -> T:
        def attempt(again: bool) -> T:
            if again:
                self._backend.recover()
            return operation(again)

        with _guarded(self.url, self._secrets):
            return lasting(attempt, lambda e: _clean(str(root(e)), self._secrets))


def open_storage(url: str, *, create: bool) -> Storage:
    """The storage at ``url``. With ``create``, what is missing is made, and a database that is away awaited.

    Raises:
        StudyError: ``url`` is malformed, or what it names cannot be reached or read.
    """
    journal = _journal_path(url)
    if journal is not None:
        return _open_journal(url, journal, create=create)
    return _open_database(url, create=create)


def storage_file(url: str) -> Path | None:
    """The file that a storage lies in; ``None`` for a server.

    Raises:
        StudyError: ``url`` is malformed, or of a kind that cannot be opened.
    """
    journal = _journal_path(url)
    if journal is not None:
        return journal
    parsed = _parsed(url)
    return Path(parsed.database) if parsed.drivername == "sqlite" and parsed.database else None


def refuse_foreign(url: str) -> None:
    """Check that the file of a storage, if there is one, holds studies or nothing; it stays as it is.

    Raises:
        StudyError: It holds something else, or cannot be read.
    """
    path = storage_file(url)
    if path is None:
        return
    with _guarded(shown(url), ()):
        (refuse_foreign_database if _journal_path(url) is None else refuse_foreign_journal)(path)


def shown(url: str) -> str:
    """``url`` without a password, fit for messages."""
    hidden = re.sub(r"(?i)([?&][^=&]*password[^=&]*=)[^&]*", r"\1***", url)
    # Greedy up to the last @: an unescaped @ or / may be part of the password.
    return re.sub(r"(?s)(://[^:]*):.*@", r"\1:***@", hidden)


def _journal_path(url: str) -> Path | None:
    if url.startswith("journal:///") and len(url) > len("journal:///"):
        return Path(url.removeprefix("journal:///"))
    return Path(url) if url.endswith(".log") and "://" not in url else None


def _open_journal(url: str, path: Path, *, create: bool) -> Storage:
    with _guarded(shown(url), ()):
        _prepare_file(path, create=create)
        refuse_foreign_journal(path)
        _quiet()
        from evomerge.search._backends import JournalBackend

        return Storage(JournalBackend(path if create else _writable(path)), url)


def _parsed(url: str) -> URL:
    """The URL of a database that can be opened here.

    Raises:
        StudyError: It is malformed, or of another kind.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is not a number is a ValueError
        # Its text holds the URL, and what is malformed cannot be cleaned of a password.
        raise StudyError("storage", "this is not a storage URL", EXAMPLES) from None
    if url.count("@") > 1:
        raise StudyError("storage", "more than one @ in the URL", "Write an @ of a password as %40.")
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StudyError("storage", f"there is no storage of the kind {parsed.drivername!r}", EXAMPLES)
    return parsed


def _open_database(url: str, *, create: bool) -> Storage:
    parsed = _parsed(url)
    options = _sqlite_options() if parsed.drivername == "sqlite" else _postgres_options()
    secrets = [str(parsed.password)] if parsed.password else []
    secrets += [str(v) for k, v in parsed.query.items() if "password" in k.lower()]
    with _guarded(shown(url), secrets):
        if parsed.drivername == "sqlite" and parsed.database:
            _prepare_file(Path(parsed.database), create=create)
            refuse_foreign_database(Path(parsed.database))
            if not create:
                parsed = parsed.set(database=str(_writable(Path(parsed.database))))
        _quiet()
        from evomerge.search._database import open_database

        def attempt(*_: object) -> Backend:
            return open_database(parsed.render_as_string(hide_password=False), options)

        # Who only reads need not wait for a server; a search may be started while it restarts.
        backend = lasting(attempt, lambda e: _clean(str(root(e)), secrets)) if create else attempt()
        return Storage(backend, url, secrets)


def _sqlite_options() -> dict[str, Any]:
    def durable(connection: Any, _: object) -> None:
        # WAL: readers (status, a dashboard) do not block the search. FULL: on disk when commit returns.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return {"connect_args": {"timeout": LOCK_SECONDS}, "pool_events": [(durable, "connect")]}


def _postgres_options() -> dict[str, Any]:
    silence = {"keepalives_idle": SILENCE_SECONDS // 2, "tcp_user_timeout": SILENCE_SECONDS * 1000}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS, **silence}}


def _prepare_file(path: Path, *, create: bool) -> None:
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise StudyError(str(path), "there is no study: no such file")


def _writable(path: Path) -> Path:
    """``path``, or on a read-only medium a temporary copy: SQLite and a journal are also read by writing."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return path
    folder = tempfile.mkdtemp(prefix="evomerge-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.is_file():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
    return Path(folder) / path.name


def _quiet() -> None:
    from optuna import logging

    logging.set_verbosity(logging.ERROR)


@contextmanager
def _guarded(url: str, secrets: Sequence[str]) -> Iterator[None]:
    """Turns what a storage raises into a StudyError without a password."""
    import optuna
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    try:
        yield
    except (ImportError, NoSuchModuleError) as exception:
        hint = "Install it with: pip install 'evomerge[postgres]'."
        raise StudyError(url, f"the driver of this database is missing ({exception})", hint) from None
    except OSError as exception:
        raise StudyError(url, f"the storage failed: {exception.strerror or exception}") from None
    except Exception as exception:
        cause = root(exception)
        ours = isinstance(exception, SQLAlchemyError | optuna.exceptions.OptunaError)
        if ours or type(cause).__module__.split(".")[0] in ("sqlite3", "psycopg"):
            raise StudyError(url, f"the storage failed: {_clean(str(cause), secrets)}") from None
        raise


def _clean(text: str, secrets: Sequence[str]) -> str:
    """On one line, without a password in any spelling."""
    for secret in secrets:
        for spelling in (secret, unquote(secret), quote(secret, safe=""), quote(secret)):
            text = text.replace(spelling, "***")
    return " ".join(text.split())
