"""Storages to test against: SQLite, a journal file, and a real PostgreSQL server where its programs are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_support import PostgresServer, postgres_server

__all__ = ["postgres_server"]

STORAGES = ["sqlite", "journal", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty storage."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    if request.param == "journal":
        return f"journal:///{tmp_path}/study.log"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """URL of the fastest of the storages."""
    return f"journal:///{tmp_path}/study.log"


@pytest.fixture(autouse=True)
def close_studies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes every study that a test opened."""
    from evomerge.study.study import Study

    made: list[Study] = []
    initialise = Study.__init__

    def remember(self: Study, *args: object, **kwargs: object) -> None:
        initialise(self, *args, **kwargs)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Study, "__init__", remember)
    yield
    for study in made:
        study.close()
