"""Real kills of real processes; ``scripts/chaos.py`` does the same with real models, twenty times."""

from __future__ import annotations

import importlib.util
import itertools
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from search_fakes import FakeExecutor, make_plan
from support import ROOT

from evomerge.search.controller import search
from evomerge.study.study import Study

DRIVER = Path(__file__).with_name("chaos_driver.py")


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", ROOT / "scripts" / "chaos.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["chaos"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count(url: str) -> int:
    """Trials recorded so far."""
    if url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            (there,) = connection.execute("SELECT to_regclass('trials') IS NOT NULL").fetchone() or (False,)
            row = connection.execute("SELECT count(*) FROM trials").fetchone() if there else None
            return 0 if row is None else row[0]
    if url.startswith("journal"):
        return Path(url.removeprefix("journal:///")).read_bytes().count(b'{"op_code":4,')
    found: int = sys.modules["chaos"].count_trials(Path(url.removeprefix("sqlite:///")))
    return found


def survives(chaos: ModuleType, url: str, tmp_path: Path, kills: int, workers: int, lag: int = 0) -> None:
    plan = make_plan(trials=60, lag=lag)
    dimensions = plan.space.dimensions
    reference = Study.open(
        f"journal:///{tmp_path}/reference.log", "chaos", document={}, dimensions=dimensions
    )
    search(plan, reference, FakeExecutor())
    starts = itertools.count()
    targets = ("worker", "group") if workers else ("driver", "group")
    run = chaos.Chaos(
        command=lambda: [sys.executable, str(DRIVER), url, str(next(starts)), str(workers), str(lag)],
        recorded=lambda: count(url),
        targets=targets,
        chance=random.Random(7),
        log=tmp_path / "log",
        start_s=8.0 if workers else 1.5,
        pause_s=0.1,
        environment={"PYTHONPATH": ":".join(p for p in sys.path if p), "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert run.run(kills, timeout_s=120) == 0, (tmp_path / "log").read_text()
    assert sum(run.kills.values()) >= kills - 1
    study = Study.open(url, "chaos")
    assert study.snapshot() == reference.snapshot()
    numbers = [t.number for t in study.trials()]
    assert sorted(numbers) == list(range(len(numbers)))


@pytest.mark.slow
def test_killed_at_random_moments_the_study_is_the_same(
    chaos: ModuleType, storage: str, tmp_path: Path
) -> None:
    survives(chaos, storage, tmp_path, kills=3, workers=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_killed_at_random_moments_with_two_workers_the_study_is_the_same(
    chaos: ModuleType, tmp_path: Path
) -> None:
    survives(chaos, f"sqlite:///{tmp_path}/study.db", tmp_path, kills=2, workers=2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_with_a_lag_the_study_is_the_same(
    chaos: ModuleType, tmp_path: Path, workers: int
) -> None:
    survives(chaos, f"sqlite:///{tmp_path}/study.db", tmp_path, kills=2, workers=workers, lag=13)
