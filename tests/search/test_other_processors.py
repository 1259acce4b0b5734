"""A study goes on where linear algebra is rounded otherwise: on another type of processor."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT, environment

from evomerge.recipe import Dimension
from evomerge.search.samplers import SAMPLERS, SamplerPlan
from evomerge.search.stream import DriftError, open_stream
from evomerge.study.study import Study, Trial

DIMENSIONS = [Dimension("x", "float", 0, 1), Dimension("y", "float", 0, 1), Dimension("z", "int", 0, 6)]


def searched(study: Study, trials: int, *, off_by: float = 0.0, lag: int = 0) -> None:
    """Bring ``study`` to so many trials; what it records differs by ``off_by`` from what was proposed."""
    plan = SamplerPlan(SAMPLERS["cma_es"].Settings.model_validate({"population": 6, "seed": 4}))
    stream = open_stream(plan, DIMENSIONS, lag, trials, study)
    running = list(stream.take())
    while running:
        proposal = running.pop(0)
        x, y, z = proposal.vector
        vector = (abs(x - off_by), y, z)
        score = -round((x - 0.3) ** 2 + (y - 0.6) ** 2 + z / 10, 2)
        g, i = proposal.generation, proposal.index
        trial = Trial("candidate", f"g{g}.{i}", g, i, f"{g}.{i}", vector, values=(score,))
        stream.note_recorded(study.record(trial))
        while stream.tell():
            running += stream.take()


@pytest.mark.parametrize("lag", [0, 7])
def test_what_differs_by_rounding_is_told_as_it_is_recorded(tmp_path: Path, lag: int) -> None:
    here = Study.open(f"journal:///{tmp_path}/here.log", "s", document={})
    searched(here, 60, lag=lag)
    moved = Study.open(f"journal:///{tmp_path}/moved.log", "s", document={})
    for trials in (15, 33):  # each time on the other type of processor
        searched(moved, trials, off_by=1e-9, lag=lag)
    searched(moved, 60, lag=lag)
    for left, right in zip(here.candidates(), moved.candidates(), strict=True):
        assert left.name == right.name
        assert left.vector == pytest.approx(right.vector, abs=1e-7)


def test_what_differs_by_more_is_drift(tmp_path: Path) -> None:
    study = Study.open(f"journal:///{tmp_path}/s.log", "s", document={})
    searched(study, 9, off_by=1e-4)
    with pytest.raises(DriftError, match="another g0"):
        searched(study, 30)


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the kernels named here are those of x86-64 processors"
)
def test_a_search_that_moves_between_types_of_processors_finds_the_same_trials(tmp_path: Path) -> None:
    document = json.loads(json.dumps(EXPERIMENT))
    document["search"] |= {"population": 6, "top_k": 1}
    (tmp_path / "e.yml").write_text(yaml.safe_dump(document))

    def run(kernels: str, trials: int, out: str) -> dict[str, Any]:
        options = ["--trials", str(trials), "--out", out, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "evomerge.cli.main", "search", "e.yml", *options],
            cwd=tmp_path,
            env={**environment(), "OPENBLAS_CORETYPE": kernels},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    expected = run("Haswell", 30, "one")["trials"]
    for kernels, trials in (("Haswell", 8), ("Nehalem", 21), ("Haswell", 30)):
        moved = run(kernels, trials, "two")["trials"]
    assert [t["name"] for t in moved] == [t["name"] for t in expected]
    for left, right in zip(moved, expected, strict=True):
        assert left["values"] == pytest.approx(right["values"], abs=1e-6)
