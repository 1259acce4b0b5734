"""A study on a medium that cannot be written is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evomerge.errors import StudyError
from evomerge.search._storage import open_storage


@pytest.mark.parametrize("url", ["sqlite:///{}/study.db", "journal:///{}/study.log"])
def test_a_study_in_a_folder_that_cannot_be_written_is_read_and_left_as_it_is(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url.format(tmp_path)
    made = open_storage(url, create=True)
    made.create_study("s")
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
