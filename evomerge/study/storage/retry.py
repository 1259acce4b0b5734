"""Which failures of a storage are transient, and how long they are retried."""

from __future__ import annotations

import errno
import logging
import re
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "is_passing", "retry", "root"]

PATIENCE_S = 120.0
"""How long an operation is tried again before the search ends: a database server restarts within that."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0

T = TypeVar("T")
_log = logging.getLogger(__name__)

_PASSING_ERRNO = (errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT)
_PASSING_SQLSTATES = ("08", "40", "57", "25006", "53300", "55P03")
"""Beginnings: connection lost, deadlock or serialization, server stopping or starting, a standby that is not
yet the primary, too many connections, a lock not available."""
_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|does not exist|denied"
)
"""What a server answers when it refuses a login. Such answers to a new connection have no SQLSTATE (psycopg
3.3); in another language than English they are retried like a lost connection."""


def retry(operation: Callable[[bool], T], describe: Callable[[BaseException], str]) -> T:
    """What ``operation`` returns, retried with growing pauses while its failure may be transient.

    The operation is told whether it was tried before: then an earlier attempt may have been carried out
    although it failed (a connection lost in the commit). ``describe`` makes the log text of a failure.
    """
    began, pause, again = time.monotonic(), FIRST_PAUSE_S, False
    while True:
        try:
            return operation(again)
        except Exception as exception:
            waited = time.monotonic() - began
            if not is_passing(exception) or waited + pause > PATIENCE_S:
                raise
            if not again:
                _log.warning(
                    "The storage does not answer, trying again for %.0f s: %s",
                    PATIENCE_S,
                    describe(exception),
                )
        time.sleep(pause)
        again, pause = True, min(2 * pause, LONGEST_PAUSE_S)


def is_passing(exception: BaseException) -> bool:
    """Whether the same operation may succeed a little later."""
    cause = root(exception)
    if isinstance(cause, sqlite3.OperationalError):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the low byte: the kind of lock does not matter
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    if isinstance(cause, OSError):
        return cause.errno in _PASSING_ERRNO
    if type(cause).__module__.split(".")[0] != "psycopg":
        return False
    state = getattr(cause, "sqlstate", None)
    if state is None:  # not an answer of the server: the connection is lost, or cannot be made
        is_lost = any(t.__name__ in ("OperationalError", "InterfaceError") for t in type(cause).__mro__)
        return is_lost and _REFUSED.search(str(cause)) is None
    return str(state).startswith(_PASSING_SQLSTATES)


def root(exception: BaseException) -> BaseException:
    """What the database's own driver raised, where Optuna and SQLAlchemy wrapped it."""
    wrapped = getattr(exception, "orig", None)
    if wrapped is None and type(exception).__module__.startswith("optuna"):
        wrapped = exception.__cause__
    return exception if wrapped is None else root(wrapped)
