"""What status says besides the leaderboard."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from cli_support import EXPERIMENT
from search_fakes import note_drift
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.study.study import Study, Trial, versions


def test_status_and_check_say_on_one_line_how_is_searched(tmp_path: Path) -> None:
    def line(*arguments: str) -> str:
        shown = CliRunner().invoke(app, list(arguments)).stdout.splitlines()
        return next(text for text in shown if text.startswith("Search: "))

    given = {**EXPERIMENT, "search": {**EXPERIMENT["search"], "lag": 6, "sigma": 0.1, "restarts": 1}}
    plain = {**EXPERIMENT, "search": {"sampler": "random", "trials": 8}}
    said = {
        "given": "cma_es, 8 candidates, lag 6, population 4, seed 3, sigma 0.1, restarts 1",
        "plain": "random, 8 candidates, lag 0, population 16, seed 0",
    }
    for name, document in (("given", given), ("plain", plain)):
        url = f"sqlite:///{tmp_path}/{name}.db"
        Study.open(url, name, document=document).close()
        assert line("status", name, "--storage", url) == f"Search: {said[name]}"
        file = tmp_path / f"{name}.yml"
        file.write_text(json.dumps(document))
        assert line("check", str(file)) == f"Search: {said[name]}"


def test_status_names_the_driver_and_the_drifts_that_were_accepted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    document = {**EXPERIMENT, "workers": {"dtype": None}}
    with Study.open(url, "small", document=document) as study:
        study.record(Trial("candidate", "g0.0", 0, 0, "digest", values=(0.5,)))
        note_drift(study, 0, {**versions(), "cma": "99.0"})
        arguments = ["status", "small", "--storage", url]
        text = " ".join(CliRunner().invoke(app, arguments).stdout.split())
        shown = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert f"Driver: process {os.getpid()} on {socket.gethostname()}, since 20" in text
    assert "alive, last sign of life" in text
    assert f"Drift accepted after 1 candidates: cma {versions()['cma']} -> 99.0" in text
    driver, (drift,) = shown["driver"], shown["accepted_drifts"]
    assert (driver["pid"], driver["host"], driver["alive"]) == (os.getpid(), socket.gethostname(), True)
    assert drift["changed"] == {"cma": {"old": versions()["cma"], "new": "99.0"}}
    assert (drift["after_candidates"], drift["after_generations"]) == (1, 1)

    closed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert closed["driver"] is None
    assert "Driver" not in CliRunner().invoke(app, arguments).stdout
