"""Errors of a storage as one message without a password."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, unquote

from evomerge.errors import StudyError
from evomerge.study.storage.retry import root
from evomerge.study.storage_row import DAMAGE_ERRORS

__all__ = ["clean", "translate_errors"]


@contextmanager
def translate_errors(
    url: str,
    secrets: Sequence[str],
    damage: Callable[[BaseException], StudyError | None] = lambda _: None,
) -> Iterator[None]:
    """Turns the errors of a storage into a ``StudyError`` without any of the ``secrets``.

    ``damage`` returns what to raise where Optuna failed because a file is damaged.
    """
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
        foreign = isinstance(exception, SQLAlchemyError | optuna.exceptions.OptunaError)
        if foreign or type(cause).__module__.split(".")[0] in ("sqlite3", "psycopg"):
            raise StudyError(url, f"the storage failed: {clean(str(cause), secrets)}") from None
        if isinstance(exception, DAMAGE_ERRORS) and (error := damage(exception)) is not None:
            raise error from None
        raise


def clean(text: str, secrets: Sequence[str]) -> str:
    """``text`` on one line, without a secret in any spelling."""
    for secret in secrets:
        for spelling in (secret, unquote(secret), quote(secret, safe=""), quote(secret)):
            text = text.replace(spelling, "***")
    return " ".join(text.split())
