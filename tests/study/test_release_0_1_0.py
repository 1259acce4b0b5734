"""Studies that release 0.1.0 wrote: they open, show, and go on to the trials that it would have found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from postgres_support import PostgresServer
from support import ROOT
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.study.study import Study

STUDIES = ROOT / "tests" / "studies" / "release_0_1_0"
NAMES = ["lag", "random", "journal", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=NAMES)
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str, dict[str, Any]]:
    """Name and URL of a study in the current folder, with its experiment and models; what is expected."""
    monkeypatch.chdir(tmp_path)
    name: str = request.param
    (tmp_path / "zoo").symlink_to(ROOT / "experiments" / "zoo")
    (tmp_path / "fit").symlink_to(ROOT / "fitness" / "zoo")
    shutil.copy(STUDIES / name / "experiment.yml", f"{name}.yml")
    if name == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
        import psycopg

        text = (STUDIES / name / "study.sql").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("\\")]
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("\n".join(lines))  # type: ignore[call-overload]
    else:
        kind, file = ("journal", "study.log") if name == "journal" else ("sqlite", "study.db")
        shutil.copy(STUDIES / name / file, file)
        url = f"{kind}:///{tmp_path / file}"
    return name, url, json.loads((STUDIES / name / "expected.json").read_text())


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_status_says_what_it_said(run: tuple[str, str, dict[str, Any]]) -> None:
    name, url, expected = run
    said = json.loads(invoke("status", name, "--storage", url, "--json"))
    assert said | {"storage": None} == expected["status"] | {"storage": None}


@pytest.mark.slow
def test_it_goes_on_to_the_same_trials(run: tuple[str, str, dict[str, Any]]) -> None:
    name, url, expected = run
    invoke("search", f"{name}.yml", "--storage", url, "--out", "run")
    with Study.open(url, name) as study:
        assert study.snapshot() == expected["snapshot"]
        assert study.digest() == expected["digest"]
