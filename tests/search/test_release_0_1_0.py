"""Studies that release 0.1.0 wrote go on as they would have gone on there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import environment
from support import ROOT, ZOO

from evomerge.search.study import Study

RELEASED = ROOT / "tests" / "studies" / "release_0_1_0"
SENTENCE = "did not record what its tasks were"


def _place(tmp_path: Path) -> Path:
    shutil.copytree(RELEASED, tmp_path / "r")
    shutil.copytree(ROOT / "fitness" / "zoo", tmp_path / "r" / "fit")
    (tmp_path / "r" / "zoo").symlink_to(ZOO)
    return tmp_path / "r"


def _search(folder: Path, storage: str) -> subprocess.CompletedProcess[str]:
    out = folder / "out"
    arguments = ["search", "q.yml", "--trials", "36", "--storage", storage, "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-m", "evomerge.cli.main", *arguments],
        cwd=folder,
        # Written on a processor with these kernels of linear algebra; others differ in the last bits of the
        # sampler's matrix, and a study notices.
        env={**environment(), "OPENBLAS_CORETYPE": "Haswell"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def _decided(storage: str) -> dict[str, Any]:
    with Study.open(storage, "q") as study:
        return study.snapshot()


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_half_a_study_goes_on_to_the_same_trials(tmp_path: Path, kind: str) -> None:
    folder = _place(tmp_path)
    half = f"sqlite:///{folder / 'half' / 'study.db'}"
    if kind == "journal":
        half = f"journal:///{folder / 'half.journal.log'}"
    run = _search(folder, half)
    assert run.returncode == 0, run.stderr
    assert SENTENCE in run.stderr.replace("\n", " ")
    assert _decided(half) == _decided(f"sqlite:///{folder / 'full' / 'study.db'}")
    again = _search(folder, half)
    assert again.returncode == 0
    assert SENTENCE not in again.stderr.replace("\n", " "), "what it scores was recorded when it went on"
    _edit_answers(folder / "fit")
    edited = _search(folder, half)
    assert edited.returncode == 2
    assert "zoo_sort" in edited.stderr


def _edit_answers(tasks: Path) -> None:
    for file in tasks.rglob("*sort*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["choices"] = row["choices"][::-1]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
