"""The password of a storage's URL stays where the user put it."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml
from cli_support import EXPERIMENT, environment
from postgres_support import PASSWORD, PostgresServer

from evomerge.errors import StudyError
from evomerge.study.lookup import study_names
from evomerge.study.storage import retry
from evomerge.study.study import Study, Trial

pytestmark = pytest.mark.postgres

SPELLINGS = {PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), quote_plus(PASSWORD), "s3cr"}


def free_of_passwords(text: str) -> bool:
    return not any(spelling in text for spelling in SPELLINGS)


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.url_with_password(postgres_server.new_database().rsplit("/", maxsplit=1)[-1])


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What any library says about anything."""
    import optuna

    names = [
        "",
        "evomerge",
        "optuna",
        "sqlalchemy",
        "sqlalchemy.engine",
        "sqlalchemy.pool",
        "alembic",
        "psycopg",
    ]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    optuna.logging.enable_propagation()
    yield caplog
    optuna.logging.disable_propagation()
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_no_library_logs_a_password(
    url: str,
    postgres_server: PostgresServer,
    everything_logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.5)
    study = Study.open(url, "s", document={})
    study.record(Trial("baseline", "b", -1, 0, "digest", values=(0.5,)))
    assert free_of_passwords(study.url + repr(study) + str(study.document))
    assert study_names(url) == ("s",)
    postgres_server.stop("immediate")
    try:
        with pytest.raises(StudyError) as caught:
            study.record(Trial("baseline", "c", -1, 1, "digest", values=(0.5,)))
        assert free_of_passwords(str(caught.value))
    finally:
        postgres_server.start()
    assert "INSERT" in everything_logged.text  # the libraries did talk
    assert "does not answer" in everything_logged.text
    assert free_of_passwords(everything_logged.text)


@pytest.mark.parametrize("wrong", ["password", "database", "driver"])
def test_no_error_tells_a_password(url: str, wrong: str, postgres_server: PostgresServer) -> None:
    broken = {
        "password": postgres_server.url_with_password("postgres", PASSWORD + "x"),
        "database": postgres_server.url_with_password("nowhere"),
        "driver": url.replace("psycopg", "nodriver"),
    }[wrong]
    with pytest.raises(StudyError) as caught:
        Study.open(broken, "s", document={})
    assert free_of_passwords(str(caught.value))
    assert caught.value.__cause__ is None


@pytest.mark.slow
def test_no_command_prints_or_writes_a_password(url: str, tmp_path: Path) -> None:
    experiment = tmp_path / "experiment.yml"
    experiment.write_text(
        yaml.safe_dump({**EXPERIMENT, "search": {"trials": 4, "population": 4, "top_k": 1}})
    )
    said = ""

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "evomerge.cli.main", *words]

    def run(*words: str) -> str:
        nonlocal said
        done = subprocess.run(
            command(*words),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        said += done.stdout + done.stderr
        return done.stdout

    search = ("search", str(experiment), "--storage", url)
    with subprocess.Popen(
        command(*search), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        for line in first.stdout:
            said += line
            if line.startswith("Scoring"):
                first.send_signal(signal.SIGINT)
    assert first.returncode == 130
    assert re.search(r"--storage '?postgresql\+psycopg://ann:\*\*\*@127", said)  # how to go on
    run(*search)
    status = json.loads(run("status", "small", "--storage", url, "--json"))
    assert status["storage"].startswith("postgresql+psycopg://ann:***@127")
    run("export", "small", "--storage", url, "-o", "best.yml")
    assert free_of_passwords(said)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"best.yml", "run.json"} <= {path.name for path in files}
    for path in files:
        assert free_of_passwords(path.read_text(errors="replace")), path
