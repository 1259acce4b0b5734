"""A study in Optuna's own tables, written with a few statements a trial instead of through its ORM.

Optuna 5.0 writes a trial of 20 parameters with 71 statements (13 ms on SQLite, 26 ms on PostgreSQL;
docs/decisions/0009). The tables are read and written here as the schema ``v3.2.0.a`` has them (seen with
Optuna 5.0); ``open_database`` leaves any other schema to Optuna.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from evomerge.study.storage.journal import Backend, DistributionTexts
from evomerge.study.storage.retry import root
from evomerge.study.storage_row import LEASE, MAIN, LeaseLost, Row, json_text

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["SCHEMAS", "DatabaseBackend", "open_database"]

SCHEMAS = ("v3.2.0.a",)
"""Versions of Optuna's tables that are known here."""

_CREATION_PAUSES_S = (0.1, 0.2, 0.4, 0.8)

_Values = Mapping[str, Any]


def open_database(url: str, options: Mapping[str, Any]) -> Backend:
    """The database at ``url``; its tables are made if they are missing."""
    storage = _made(url, options)
    if storage.get_current_version() not in SCHEMAS:
        return Backend(storage)
    if storage.engine.name == "sqlite":
        return _Sqlite(storage)
    return _Postgres(storage)


def _made(url: str, options: Mapping[str, Any]) -> RDBStorage:
    """Optuna's storage, whose tables are made if they are missing."""
    # It looks first and makes then: of drivers that start at once, one may find that another was faster.
    for pause in _CREATION_PAUSES_S:
        try:
            return RDBStorage(url, engine_kwargs=dict(options))
        except (SQLAlchemyError, StorageInternalError) as exception:
            made_twice = isinstance(exception, IntegrityError) or "already exists" in str(root(exception))
            if not made_twice:
                raise
        time.sleep(pause)
    return RDBStorage(url, engine_kwargs=dict(options))


class DatabaseBackend(Backend):
    """Optuna's tables. Each write is one transaction, and the lease is checked inside it."""

    _share = ""
    """What makes a row that was read stay as it is until the transaction ends."""

    def __init__(self, storage: RDBStorage) -> None:
        super().__init__(storage)
        self._engine: Engine = storage.engine
        self._connection: Any = None
        self._last: dict[int, tuple[int, int]] = {}  # by study: id and number of the last trial known
        self._texts = DistributionTexts()

    def study_names(self) -> tuple[str, ...]:
        """Names of all studies, sorted."""
        with self._engine.connect() as connection:
            return tuple(sorted(connection.execute(text("SELECT study_name FROM studies")).scalars()))

    def attributes(self, name: str) -> dict[str, Any]:
        """User attributes of the study."""
        query = 'SELECT "key", value_json FROM study_user_attributes WHERE study_id = :study'
        with self._engine.connect() as connection:
            found = connection.execute(text(query), {"study": self.study_id(name)})
            return {key: json.loads(value) for key, value in found}

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Sets one user attribute of the study."""
        self._set("study_user_attributes", self.study_id(name), key, json.dumps(value))

    def system_attribute(self, name: str, key: str) -> str | None:
        """A system attribute of the study, ``None`` where it is absent."""
        query = 'SELECT value_json FROM study_system_attributes WHERE study_id = :study AND "key" = :key'
        with self._engine.connect() as connection:
            found = connection.execute(text(query), {"study": self.study_id(name), "key": key}).scalar()
        value: str | None = None if found is None else json.loads(found)
        return value

    def set_system_attribute(self, name: str, key: str, value: str) -> None:
        """Sets a system attribute, fenced; may be called from another thread."""
        self._set("study_system_attributes", self.study_id(name), key, json.dumps(value))

    def exchange(self, name: str, key: str, old: str | None, new: str) -> bool:
        """Sets a system attribute if it is still ``old``; whether it did."""
        if old is None:
            statement = (
                'INSERT INTO study_system_attributes (study_id, "key", value_json) '
                "VALUES (:study, :key, :new) ON CONFLICT DO NOTHING"
            )
        else:
            statement = (
                "UPDATE study_system_attributes SET value_json = :new "
                'WHERE study_id = :study AND "key" = :key AND value_json = :old'
            )
        values = {"study": self.study_id(name), "key": key, "old": json.dumps(old), "new": json.dumps(new)}
        return self._execute(statement, values) == 1

    def trials(self, name: str) -> list[Row]:
        """All trials, in the order they were written; their parameters are not read."""
        query = (
            'SELECT t.trial_id, t.number, v.value, a."key", a.value_json FROM trials t '
            "LEFT JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0 "
            "LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id "
            "WHERE t.study_id = :study ORDER BY t.trial_id"
        )
        study = self.study_id(name)
        rows: dict[int, Row] = {}
        with self._engine.connect() as connection:
            for trial, number, score, key, value in connection.execute(text(query), {"study": study}):
                attributes: dict[str, Any] = {}
                row = rows.setdefault(trial, Row({}, score, attributes, number))
                if key is not None:
                    row.attributes[key] = json.loads(value)  # type: ignore[index]
                self._last[study] = trial, number
        return list(rows.values())

    def add_trial(self, name: str, row: Row, *, again: bool) -> int:
        """Writes a finished trial; its number. ``again``: an earlier attempt may have written it."""
        study = self.study_id(name)
        last = self._last_trial(study)
        values = {
            "study": study,
            "held": LEASE,
            "lease": json.dumps(self._fences.get(study)),
            "after": last[0],
            "next": last[1] + 1,
            "state": "FAIL" if row.score is None else "COMPLETE",
            "now": datetime.now(UTC).replace(tzinfo=None),
            "name": MAIN,
            "main": json_text(row.attributes[MAIN]),
        }
        found = self._find(values) if again else None
        self._last[study] = found or self._insert(values, row)
        return self._last[study][1]

    def recover(self) -> None:
        """Drops the connections: the next operation makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is broken already, in whatever way
                connection.close()

    def close(self) -> None:
        """Releases connections; may be called twice."""
        self.recover()
        super().close()

    def _insert(self, values: _Values, row: Row) -> tuple[int, int]:
        """Writes the trial; its id and number."""
        raise NotImplementedError

    def _writer(self) -> Any:
        """The driver's own connection, kept for the trials: SQLAlchemy costs as much as a transaction."""
        if self._connection is None:
            pooled = self._engine.raw_connection()
            self._connection = pooled.driver_connection
            pooled.detach()
            self._prepare(self._connection)
        return self._connection

    def _prepare(self, connection: Any) -> None:
        """Leaves the beginning and the end of transactions to what is written here."""
        raise NotImplementedError

    def _parameters(self, row: Row) -> list[tuple[str, float, str]]:
        """Name, what Optuna stores of the value, and the distribution as JSON."""
        return [
            (name, float(distribution.to_internal_repr(value)), self._texts.of(name, distribution))
            for name, (distribution, value) in row.parameters.items()
        ]

    def _attributes(self, values: _Values, row: Row) -> list[tuple[str, str]]:
        others = [(key, json_text(value)) for key, value in row.attributes.items() if key != MAIN]
        return [(MAIN, values["main"]), *others]

    def _last_trial(self, study: int) -> tuple[int, int]:
        """Id and number of the last trial. Counting all for each new one would slow a long study down."""
        if study not in self._last:
            query = "SELECT coalesce(max(trial_id), -1), count(*) FROM trials WHERE study_id = :study"
            with self._engine.connect() as connection:
                last, count = connection.execute(text(query), {"study": study}).one()
            self._last[study] = last, count - 1
        return self._last[study]

    def _find(self, values: _Values) -> tuple[int, int] | None:
        """Id and number of the trial, if it is among those written since the last one known."""
        query = (
            "SELECT t.trial_id, t.number FROM trials t JOIN trial_user_attributes a USING (trial_id) "
            "WHERE t.study_id = :study AND t.trial_id > :after "
            'AND a."key" = :name AND a.value_json = :main'
        )
        with self._engine.connect() as connection:
            found = connection.execute(text(query), values).one_or_none()
        return None if found is None else (found[0], found[1])

    def _set(self, table: str, study: int, key: str, value: str) -> None:
        statement = (
            f'INSERT INTO {table} (study_id, "key", value_json) '  # noqa: S608 (our own two names)
            "SELECT study_id, :key, :value FROM study_system_attributes "
            f'WHERE study_id = :study AND "key" = :held AND value_json = :lease {self._share} '
            'ON CONFLICT (study_id, "key") DO UPDATE SET value_json = excluded.value_json'
        )
        values = {"study": study, "key": key, "value": value}
        values |= {"held": LEASE, "lease": json.dumps(self._fences.get(study))}
        if self._execute(statement, values) != 1:
            raise LeaseLost

    def _execute(self, statement: str, values: _Values) -> int:
        """Runs one statement as one transaction; the number of rows that it changed."""
        with self._engine.begin() as connection:
            return connection.execute(text(statement), values).rowcount


class _Sqlite(DatabaseBackend):
    def _prepare(self, connection: Any) -> None:
        connection.isolation_level = None

    def _insert(self, values: _Values, row: Row) -> tuple[int, int]:
        cursor = self._writer().cursor()
        # IMMEDIATE: waits here for other writers. A transaction that began by reading would fail instead.
        cursor.execute("BEGIN IMMEDIATE")
        try:
            written = self._insert_rows(cursor, values, row)
            cursor.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(Exception):  # the commit may have ended it
                cursor.execute("ROLLBACK")
            raise
        return written

    def _insert_rows(self, cursor: Any, values: _Values, row: Row) -> tuple[int, int]:
        since = cursor.execute(
            "SELECT (SELECT count(*) FROM trials WHERE study_id = :study AND trial_id > :after) "
            "FROM study_system_attributes "
            'WHERE study_id = :study AND "key" = :held AND value_json = :lease',
            values,
        ).fetchone()
        if since is None:
            raise LeaseLost
        number = values["next"] + since[0]
        now = str(values["now"])  # as SQLAlchemy writes it
        cursor.execute(
            "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) "
            "VALUES (?, ?, ?, ?, ?)",
            (number, values["study"], values["state"], now, now),
        )
        trial = cursor.lastrowid
        if row.score is not None:
            cursor.execute(
                "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, ?)",
                (trial, *_stored(row.score)),
            )
        cursor.executemany(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
            "VALUES (?, ?, ?, ?)",
            [(trial, *parameter) for parameter in self._parameters(row)],
        )
        cursor.executemany(
            'INSERT INTO trial_user_attributes (trial_id, "key", value_json) VALUES (?, ?, ?)',
            [(trial, *attribute) for attribute in self._attributes(values, row)],
        )
        return trial, number


class _Postgres(DatabaseBackend):
    _share = "FOR SHARE"

    # One statement, so one way to the server and back; its parts see the tables as they were before it.
    # Arrays go in binary (b): as text, their quotes cost more than everything else together. OFFSET 0 keeps
    # the condition on the study out of the inner query, so that any plan begins at `after`.
    _statement = """
        WITH held AS (
            SELECT 1 FROM study_system_attributes
            WHERE study_id = %(study)s AND "key" = %(held)s AND value_json = %(lease)s FOR SHARE
        ), trial AS (
            INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
            SELECT
                %(next)s + (
                    SELECT count(*)
                    FROM (SELECT study_id FROM trials WHERE trial_id > %(after)s OFFSET 0) since
                    WHERE since.study_id = %(study)s
                ),
                %(study)s, CAST(%(state)s AS trialstate), %(now)s, %(now)s
            FROM held RETURNING trial_id, number
        ), score AS (
            INSERT INTO trial_values (trial_id, objective, value, value_type)
            SELECT trial_id, 0, CAST(%(score)s AS float8), CAST(%(score_type)s AS trialvaluetype)
            FROM trial WHERE CAST(%(score_type)s AS text) IS NOT NULL
        ), params AS (
            INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
            SELECT trial_id, p.* FROM trial,
                unnest(CAST(%(names)b AS text[]), CAST(%(values)b AS float8[]), CAST(%(texts)b AS text[])) p
        ), attributes AS (
            INSERT INTO trial_user_attributes (trial_id, "key", value_json)
            SELECT trial_id, a.* FROM trial,
                unnest(CAST(%(keys)b AS text[]), CAST(%(jsons)b AS text[])) a
        )
        SELECT trial_id, number FROM trial
    """

    def _prepare(self, connection: Any) -> None:
        connection.autocommit = True
        # For long studies the server would make a new plan for each trial, which costs as much as running it.
        connection.execute("SET plan_cache_mode = force_generic_plan")
        # A plan made while the study is short, or before the server counted its rows, would read all trials.
        connection.execute("SET enable_seqscan = off")

    def _insert(self, values: _Values, row: Row) -> tuple[int, int]:
        score, score_type = (None, None) if row.score is None else _stored(row.score)
        names, numbers, texts = _columns(self._parameters(row), 3)
        keys, jsons = _columns(self._attributes(values, row), 2)
        more = {"score": score, "score_type": score_type, "names": names, "values": numbers}
        more |= {"texts": texts, "keys": keys, "jsons": jsons}
        written = self._writer().execute(self._statement, {**values, **more}).fetchone()
        if written is None:
            raise LeaseLost
        return written[0], written[1]


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(count)]


def _stored(score: float) -> tuple[float | None, str]:
    """A score as Optuna stores it: a number, or the name of what is none."""
    if math.isnan(score):
        raise ValueError("a score must be a number")
    if math.isinf(score):
        return None, "INF_POS" if score > 0 else "INF_NEG"
    return score, "FINITE"
