"""Where studies lie: SQLite, PostgreSQL or a journal file, through Optuna's storages (verified with 5.0)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from evomerge.errors import StudyError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

__all__ = ["Storage", "open_storage", "shown"]

EXAMPLES = "Expected sqlite:///study.db, postgresql+psycopg://user@host/database or journal:///study.log."
CONNECT_SECONDS = 10
LOCK_SECONDS = 60
"""How long a writer waits for another process that writes to the same SQLite file."""


class Storage:
    """The few things that a study asks of a storage. Every call is one transaction."""

    def __init__(self, storage: BaseStorage, url: str, secrets: Sequence[str] = ()) -> None:
        self.url = shown(url)
        self._storage = storage
        self._secrets = tuple(secrets)
        self._ids: dict[str, int] = {}

    def study_names(self) -> tuple[str, ...]:
        """Names of all studies, sorted."""
        return tuple(sorted(s.study_name for s in self._storage.get_all_studies()))

    def create_study(self, name: str) -> None:
        """An empty study; Optuna's value is the score, so it maximizes."""
        from optuna.study import StudyDirection

        self._ids[name] = self._storage.create_new_study([StudyDirection.MAXIMIZE], study_name=name)

    def attributes(self, name: str) -> dict[str, Any]:
        """User attributes of the study."""
        return self._storage.get_study_user_attrs(self._id(name))

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets one user attribute of the study."""
        self._storage.set_study_user_attr(self._id(name), key, value)

    def add_trial(self, name: str, trial: FrozenTrial) -> int:
        """Writes a finished trial; its number."""
        # What Study.add_trial calls; that one does not tell the number.
        trial_id = self._storage.create_new_trial(self._id(name), template_trial=trial)
        return self._storage.get_trial(trial_id).number

    def trials(self, name: str) -> list[FrozenTrial]:
        """All trials, by number."""
        return self._storage.get_all_trials(self._id(name), deepcopy=False)

    def close(self) -> None:
        """Releases connections; may be called twice."""
        self._storage.remove_session()
        engine = getattr(getattr(self._storage, "_backend", None), "engine", None)
        if engine is not None:
            engine.dispose()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns what the storage raises into a StudyError without a password."""
        with _guarded(self.url, self._secrets):
            yield

    def _id(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = self._storage.get_study_id_from_name(name)
        return self._ids[name]


def open_storage(url: str, *, create: bool) -> Storage:
    """The storage at ``url``. With ``create``, a file and its folder that are missing are made.

    Raises:
        StudyError: ``url`` is malformed, or what it names cannot be reached or read.
    """
    journal = _journal_path(url)
    if journal is not None:
        return _open_journal(url, journal, create=create)
    return _open_database(url, create=create)


def shown(url: str) -> str:
    """``url`` without a password, fit for messages."""
    hidden = re.sub(r"(?i)([?&][^=&]*password[^=&]*=)[^&]*", r"\1***", url)
    # Greedy up to the last @: an unescaped @ or / may be part of the password.
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", hidden)


def _journal_path(url: str) -> Path | None:
    if url.startswith("journal:///") and len(url) > len("journal:///"):
        return Path(url.removeprefix("journal:///"))
    return Path(url) if url.endswith(".log") and "://" not in url else None


def _open_journal(url: str, path: Path, *, create: bool) -> Storage:
    with _guarded(shown(url), ()):
        _prepare_file(path, create=create)
        _quiet()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        if create:  # only the process that writes may: to a reader, a line in writing looks the same
            _mend(path)
        return Storage(JournalStorage(JournalFileBackend(str(path))), url)


def _mend(path: Path) -> None:
    """Cuts off a last line that a kill left unfinished: nobody was told of it, and it spoils the next."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _open_database(url: str, *, create: bool) -> Storage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number is a ValueError
        # Its text holds the URL, and what is malformed cannot be cleaned of a password.
        raise StudyError("storage", "this is no storage URL", EXAMPLES) from None
    if url.count("@") > 1:
        raise StudyError("storage", "more than one @ in the URL", "Write an @ of a password as %40.")
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite":
        options = _sqlite_options()
    elif parsed.drivername == "postgresql+psycopg":
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}
    else:
        raise StudyError("storage", f"there is no storage of the kind {parsed.drivername!r}", EXAMPLES)
    secrets = [str(parsed.password)] if parsed.password else []
    secrets += [str(v) for k, v in parsed.query.items() if "password" in k.lower()]
    with _guarded(shown(url), secrets):
        if parsed.drivername == "sqlite" and parsed.database:
            _prepare_file(Path(parsed.database), create=create)
        _quiet()
        from optuna.storages import RDBStorage, get_storage

        database = RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=options)
        return Storage(get_storage(database), url, secrets)


def _sqlite_options() -> dict[str, Any]:
    def durable(connection: Any, _: object) -> None:
        # WAL: readers (status, a dashboard) do not block the search. FULL: on disk when commit returns.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return {"connect_args": {"timeout": LOCK_SECONDS}, "pool_events": [(durable, "connect")]}


def _prepare_file(path: Path, *, create: bool) -> None:
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise StudyError(str(path), "there is no study: no such file")


def _quiet() -> None:
    from optuna import logging

    logging.set_verbosity(logging.ERROR)


@contextmanager
def _guarded(url: str, secrets: Sequence[str]) -> Iterator[None]:
    import optuna
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    try:
        yield
    except (ImportError, NoSuchModuleError) as exception:
        hint = "Install it with: pip install 'evomerge[postgres]'."
        raise StudyError(url, f"the driver of this database is missing ({exception})", hint) from None
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as exception:
        cause = exception.__cause__ if isinstance(exception, optuna.exceptions.OptunaError) else exception
        text = str(getattr(cause, "orig", None) or cause or exception)
        raise StudyError(url, f"the storage failed: {_clean(text, secrets)}") from None
    except OSError as exception:
        raise StudyError(url, f"the storage failed: {exception.strerror or exception}") from None


def _clean(text: str, secrets: Sequence[str]) -> str:
    """On one line, without a password in any spelling."""
    for secret in secrets:
        text = text.replace(secret, "***").replace(unquote(secret), "***")
    return " ".join(text.split())
