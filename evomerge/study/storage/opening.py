"""Opening a storage by its URL: SQLite, PostgreSQL or a journal file."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import StudyError
from evomerge.study.storage.failures import clean, translate_errors
from evomerge.study.storage.foreign import refuse_foreign_database, refuse_foreign_journal
from evomerge.study.storage.retry import retry, root
from evomerge.study.storage.storage import Storage

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from evomerge.study.storage.optuna_log import OptunaLog

__all__ = ["open_storage", "redact", "refuse_foreign", "storage_file"]

EXAMPLES = "Expected sqlite:///study.db, postgresql+psycopg://user@host/database or journal:///study.log."


def open_storage(url: str, *, create: bool) -> Storage:
    """The storage at ``url``. With ``create``, missing files are created and servers waited for.

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
    parsed = _parse_url(url)
    return Path(parsed.database) if parsed.drivername == "sqlite" and parsed.database else None


def refuse_foreign(url: str) -> None:
    """Check that the file of a storage, if there is one, holds studies or nothing; it stays as it is.

    Raises:
        StudyError: It holds something else, or cannot be read.
    """
    path = storage_file(url)
    if path is None:
        return
    with translate_errors(redact(url), ()):
        (refuse_foreign_database if _journal_path(url) is None else refuse_foreign_journal)(path)


def redact(url: str) -> str:
    """``url`` without a password, fit for messages."""
    hidden = re.sub(r"(?i)([?&][^=&]*password[^=&]*=)[^&]*", r"\1***", url)
    # Up to the last @: an unescaped @ or / may be part of the password.
    return re.sub(r"(?s)(://[^:]*):.*@", r"\1:***@", hidden)


def _journal_path(url: str) -> Path | None:
    if url.startswith("journal:///") and len(url) > len("journal:///"):
        return Path(url.removeprefix("journal:///"))
    return Path(url) if url.endswith(".log") and "://" not in url else None


def _open_journal(url: str, path: Path, *, create: bool) -> Storage:
    with translate_errors(redact(url), ()):
        _prepare_file(path, create=create)
        refuse_foreign_journal(path)
        _quiet()
        from evomerge.study.storage.journal import open_journal

        return Storage(open_journal(path if create else _writable(path)), redact(url))


def _open_database(url: str, *, create: bool) -> Storage:
    parsed = _parse_url(url)
    secrets = [str(parsed.password)] if parsed.password else []
    secrets += [str(v) for k, v in parsed.query.items() if "password" in k.lower()]
    with translate_errors(redact(url), secrets):
        if parsed.drivername == "sqlite" and parsed.database:
            _prepare_file(Path(parsed.database), create=create)
            refuse_foreign_database(Path(parsed.database))
            if not create:
                parsed = parsed.set(database=str(_writable(Path(parsed.database))))
        _quiet()
        from evomerge.study.storage.database import open_database

        def attempt(_: bool) -> OptunaLog:
            return open_database(parsed)

        # A reader need not wait for a server; a search may be started while it restarts.
        log = retry(attempt, lambda e: clean(str(root(e)), secrets)) if create else open_database(parsed)
        return Storage(log, redact(url), secrets)


def _parse_url(url: str) -> URL:
    """The ``url`` of a database, with its driver.

    Raises:
        StudyError: It is malformed, or of another kind of database.
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
