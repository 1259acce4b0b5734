"""A study on a medium that cannot be written is read."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from evomerge.errors import StudyError
from evomerge.study.storage import open_storage


@pytest.mark.parametrize("url", ["sqlite:///{}/study.db", "journal:///{}/study.log"])
def test_a_study_in_a_folder_that_cannot_be_written_is_read_and_left_as_it_is(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url.format(tmp_path)
    made = open_storage(url, create=True)
    made.create_study("s", ("score",))
    made.close()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    tmp_path.chmod(0o555)
    try:
        read = open_storage(url, create=False)
        assert read.study_names() == ("s",)
        read.close()
    finally:
        tmp_path.chmod(0o755)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_file_that_is_not_a_journal_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.log").write_text("years of work")
    with pytest.raises(StudyError, match="is not a journal"):
        open_storage(f"journal:///{tmp_path}/thesis.log", create=True)
    assert (tmp_path / "thesis.log").read_text() == "years of work"


def foreign_database(path: Path, *statements: str) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path.read_bytes()


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE patients (id INTEGER)"],
        ["PRAGMA journal_mode=WAL", "CREATE TABLE runs (id INTEGER)"],
        ["CREATE TABLE studies (id INTEGER, title TEXT)"],  # not Optuna's, for all its name
        ["CREATE TABLE alembic_version (version_num TEXT)", "CREATE TABLE experiments (id INTEGER)"],
        ["CREATE VIRTUAL TABLE notes USING fts5(body)"],
    ],
)
def test_a_database_of_something_else_is_left_as_it_is(
    tmp_path: Path, statements: list[str], create: bool
) -> None:
    before = foreign_database(tmp_path / "mine.db", *statements)
    with pytest.raises(StudyError, match=r"mine\.db: is a database of something else: it holds"):
        open_storage(f"sqlite:///{tmp_path}/mine.db", create=create)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"mine.db": before}


def test_a_file_that_is_not_a_database_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StudyError, match="is not an SQLite database"):
        open_storage(f"sqlite:///{tmp_path}/thesis.txt", create=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"thesis.txt": b"years of work"}


def test_studies_begin_in_an_empty_file_or_database_and_go_on_beside_other_tables(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    foreign_database(tmp_path / "bare", "CREATE TABLE t (id INTEGER)", "DROP TABLE t")
    for name in ("empty", "bare"):
        made = open_storage(f"sqlite:///{tmp_path}/{name}", create=True)
        made.create_study("s", ("score",))
        made.close()
        foreign_database(tmp_path / name, "CREATE TABLE t (id INTEGER)")
        again = open_storage(f"sqlite:///{tmp_path}/{name}", create=True)
        assert again.study_names() == ("s",)
        again.close()
