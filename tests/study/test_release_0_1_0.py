"""Studies that release 0.1.0 wrote: they open, show, and go on to the trials that it would have found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_support import environment
from postgres_support import PostgresServer
from support import ROOT, ZOO

from evomerge.study.study import Study

STUDIES = ROOT / "tests" / "studies" / "release_0_1_0"
NAMES = [
    *("half", "half_journal", "full", "lag", "random", "journal"),
    pytest.param("postgres", marks=pytest.mark.postgres),
]
NOT_RECORDED = "did not record what its tasks were"


@dataclass(frozen=True)
class Stored:
    """A study in a folder with its experiment, models and tasks."""

    name: str
    url: str
    folder: Path
    expected: dict[str, Any]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command ``words``, in the folder."""
        return subprocess.run(
            [sys.executable, "-m", "evomerge.cli.main", *words],
            cwd=self.folder,
            # Written on a processor with these kernels of linear algebra; others differ in the last bits of
            # the sampler's matrix, and a study notices.
            env={**environment(), "OPENBLAS_CORETYPE": "Haswell"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def search(self) -> subprocess.CompletedProcess[str]:
        """The search goes on."""
        return self.run("search", "experiment.yml", "--storage", self.url, "--out", "out")

    def digest(self) -> str:
        """Of what the study holds now."""
        with Study.open(self.url, self.name) as study:
            return study.digest()


@pytest.fixture
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Stored:
    """A copy of the fixture that the test names."""
    source = STUDIES / request.param
    folder = shutil.copytree(source, tmp_path / "study")
    (folder / "zoo").symlink_to(ZOO)
    shutil.copytree(ROOT / "fitness" / "zoo", folder / "fit")
    if (folder / "study.sql").exists():
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
        _restore(folder / "study.sql", url)
    elif (folder / "study.log").exists():
        url = f"journal:///{folder}/study.log"
    else:
        url = f"sqlite:///{folder}/study.db"
    expected = json.loads((source / "expected.json").read_text())
    return Stored(expected["status"]["study"], url, folder, expected)


def _restore(dump: Path, url: str) -> None:
    import psycopg

    lines = [line for line in dump.read_text().splitlines() if not line.startswith("\\")]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("\n".join(lines))  # type: ignore[call-overload]


@pytest.mark.parametrize("stored", NAMES, indirect=True)
def test_status_and_export_say_what_they_said(stored: Stored) -> None:
    status = stored.run("status", stored.name, "--storage", stored.url, "--json")
    assert status.returncode == 0, status.stderr
    said = json.loads(status.stdout) | {"storage": None}
    assert {field: said[field] for field in stored.expected["status"]} == stored.expected["status"]
    exported = stored.run("export", stored.name, "--storage", stored.url, "-o", "-")
    assert exported.stdout.split("\n", 1)[1] == stored.expected["best"], exported.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stored", NAMES, indirect=True)
def test_it_goes_on_to_the_same_trials(stored: Stored) -> None:
    run = stored.search()
    assert run.returncode == 0, run.stderr
    assert NOT_RECORDED in run.stderr.replace("\n", " ")
    assert stored.digest() == stored.expected["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["full"], indirect=True)
def test_what_it_scores_is_recorded_when_it_goes_on_and_compared_from_then_on(stored: Stored) -> None:
    assert stored.search().returncode == 0
    again = stored.search()
    assert again.returncode == 0
    assert NOT_RECORDED not in again.stderr.replace("\n", " ")
    _edit_answers(stored.folder / "fit")
    edited = stored.search()
    assert edited.returncode == 2
    assert "zoo_sort" in edited.stderr


def _edit_answers(tasks: Path) -> None:
    for file in tasks.rglob("*sort*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["choices"] = row["choices"][::-1]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
