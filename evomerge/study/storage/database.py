"""A study in a database: SQLite or PostgreSQL, in Optuna's own tables."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from evomerge.study.storage.locks import folder_lock
from evomerge.study.storage.optuna_log import OptunaLog
from evomerge.study.storage.retry import root

__all__ = ["open_database"]

LOCK_SECONDS = 20
"""How long a writer waits for another process that writes to the same SQLite file. Optuna tries five
times."""
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30
"""How long a database server may stay silent before its connection counts as lost."""

_CREATION_PAUSES_S = (0.1, 0.2, 0.4, 0.8)


def open_database(url: URL) -> OptunaLog:
    """The database at ``url``; its tables are made if they are missing."""
    is_file = url.drivername == "sqlite"
    storage = _make_storage(url, _sqlite_options() if is_file else _postgres_options())
    exclusive = _file_exclusive(url.database) if is_file else _server_exclusive(storage.engine)
    return OptunaLog(storage, exclusive)


def _make_storage(url: URL, options: Mapping[str, Any]) -> RDBStorage:
    """Optuna's storage, whose tables are made if they are missing."""
    text = url.render_as_string(hide_password=False)
    # It looks before it creates them: of drivers that start at once, another one may have been faster.
    for pause in _CREATION_PAUSES_S:
        try:
            return RDBStorage(text, engine_kwargs=dict(options))
        except (SQLAlchemyError, StorageInternalError) as exception:
            made_twice = isinstance(exception, IntegrityError) or "already exists" in str(root(exception))
            if not made_twice:
                raise
        time.sleep(pause)
    return RDBStorage(text, engine_kwargs=dict(options))


def _sqlite_options() -> dict[str, Any]:
    def durable(connection: Any, _: object) -> None:
        # WAL: readers (status, a dashboard) do not block the search. FULL: on disk when commit returns.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return {"connect_args": {"timeout": LOCK_SECONDS}, "pool_events": [(durable, "connect")]}


def _postgres_options() -> dict[str, Any]:
    silence = {"keepalives_idle": SILENCE_SECONDS // 2, "tcp_user_timeout": SILENCE_SECONDS * 1000}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS, **silence}}


def _file_exclusive(database: str | None) -> Callable[[str], AbstractContextManager[object]]:
    if not database or database == ":memory:":
        return lambda _: nullcontext()
    return lambda _: folder_lock(Path(database))


def _server_exclusive(engine: Engine) -> Callable[[str], AbstractContextManager[object]]:
    @contextmanager
    def lock(name: str) -> Iterator[None]:
        digest = hashlib.blake2b(f"evomerge:{name}".encode(), digest_size=8).digest()
        connection = engine.connect()
        connection.detach()  # not one of the pool, which may be disposed of meanwhile
        try:
            # Until the end of the transaction, or of the connection.
            connection.execute(select(func.pg_advisory_xact_lock(int.from_bytes(digest, signed=True))))
            yield
        finally:
            with suppress(SQLAlchemyError):  # a connection that broke has no lock any more
                connection.close()

    return lock
