"""Files that do not hold studies: refused before a library writes to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from evomerge.errors import StudyError

__all__ = ["refuse_foreign_database", "refuse_foreign_journal"]

_JOURNAL_HEAD = b'{"op_code":'
_SQLITE_HEAD = b"SQLite format 3\0"
_SHOWN = 5

_KEYS: Mapping[str, str] = {
    "alembic_version": "version_num",
    "studies": "study_id",
    "study_directions": "study_direction_id",
    "study_system_attributes": "study_system_attribute_id",
    "study_user_attributes": "study_user_attribute_id",
    "trial_heartbeats": "trial_heartbeat_id",
    "trial_intermediate_values": "trial_intermediate_value_id",
    "trial_params": "param_id",
    "trial_system_attributes": "trial_system_attribute_id",
    "trial_user_attributes": "trial_user_attribute_id",
    "trial_values": "trial_value_id",
    "trials": "trial_id",
    "version_info": "version_info_id",
}
"""Optuna's tables, and the key column of each (Optuna 2.0 to 5.0)."""

_NEEDED = ("studies", "trials", "version_info")


def refuse_foreign_journal(path: Path) -> None:
    """Check that the file, if there is one, begins as a journal: a last line without an end is cut off.

    Raises:
        StudyError: It does not.
        OSError: It cannot be read.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(len(_JOURNAL_HEAD))
    if not _JOURNAL_HEAD.startswith(head):
        raise StudyError(str(path), "is not a journal of studies", "Name another file.")


def refuse_foreign_database(path: Path) -> None:
    """Check that the file, if there is one, is empty or an SQLite database that is empty or holds studies.

    Optuna adds its tables to whatever database it opens. Other tables beside Optuna's are left alone. The
    check does not change the file.

    Raises:
        StudyError: It is another file, or a database of something else.
        OSError: It cannot be read.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(len(_SQLITE_HEAD))
    if not head:
        return
    if head != _SQLITE_HEAD:
        raise StudyError(str(path), "is not an SQLite database", "Name another file.")
    columns = _columns(path)
    own = {table for table, key in _KEYS.items() if key in columns.get(table, ())}
    foreign = sorted(columns.keys() - own)
    # A driver that is killed while it creates the tables leaves some of Optuna's, and no others.
    if foreign and not own.issuperset(_NEEDED):
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise StudyError(
            str(path),
            f"is a database of something else: it holds {', '.join(foreign[:_SHOWN])}{more}",
            "Name another file; studies are not put among other tables.",
        )


def _columns(path: Path) -> dict[str, set[str]]:
    """Tables and views, with the columns of those named as Optuna's; nothing where they cannot be read."""
    wal = path.with_name(f"{path.name}-wal")
    is_live = wal.is_file() and wal.stat().st_size > 0
    # Who reads a database in WAL mode leaves files beside it; one that is "immutable" is only looked at.
    uri = f"file:{quote(str(path.absolute()))}?{'mode=ro' if is_live else 'immutable=1'}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as connection:
            query = (
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT GLOB 'sqlite_*'"
            )
            names = [name for (name,) in connection.execute(query)]
            query = "SELECT name FROM pragma_table_info(?)"  # of others' tables the extension may be missing
            return {
                n: {c for (c,) in connection.execute(query, (n,))} if n in _KEYS else set() for n in names
            }
    except sqlite3.Error:
        return {}
