"""What a trial and a start-up cost in studies of many trials, on every storage.

    python scripts/bench_study.py [--storage sqlite journal postgres] [--trials 10000] [--items 200]

A real search (CMA-ES, 20 dimensions) with an evaluator that answers at once. Reported are the milliseconds
from one finished trial to the next (median and mean; the mean has each trial's share of asking, telling and
making recipes), those of them that the storage took, and those that this process worked, for the first and
the last 200 trials, beside a bare flush of 4 KiB after each of them; then what it takes to open the finished
study for writing and to replay it. PostgreSQL is a server of its own, with ``fsync`` on.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.fitness.scores import ItemScore, Scores, TaskScore
from evomerge.recipe import SearchSpace
from evomerge.search.baselines import baselines, starts
from evomerge.search.controller import SearchPlan, search
from evomerge.search.observers import Observer
from evomerge.search.progress import Progress
from evomerge.search.samplers import CmaEsSettings, SamplerPlan
from evomerge.study.study import Study, Trial
from evomerge.workers.jobs import Job, Outcome, Seconds

ROOT = Path(__file__).resolve().parent.parent
DIMENSIONS = 20
MEASURED = 200


class Simulated:
    """Scores from the recipe alone, at once."""

    def __init__(self, items: int) -> None:
        self._items = items

    def map(self, queue: deque[Job]) -> Iterator[Outcome]:
        while queue:
            job = queue.popleft()
            weights = [float(w) for s in job.recipe.models or () for w in s.parameters.values()]
            right = round((0.5 + 0.4 * math.sin(sum(weights))) * self._items)
            items = tuple(ItemScore(f"{i:016x}", float(i < right)) for i in range(self._items))
            task = TaskScore("t", "acc", right / self._items, True, "mean", items)  # noqa: FBT003
            yield Outcome(job.key, Scores(job.items.split, (task,)), None, "0" * 32, Seconds())

    def close(self) -> None:
        pass


class FirstTask:
    def score(self, scores: Scores) -> float:
        return scores.tasks[0].value


@dataclass
class Costs:
    """Seconds of each trial of a part of the search."""

    trial: list[float] = field(default_factory=list)
    storage: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    flush: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        cells = [f"{statistics.median(self.trial) * 1e3:.1f}", f"{statistics.mean(self.trial) * 1e3:.1f}"]
        cells += [
            f"{statistics.median(part) * 1e3:.1f}" for part in (self.storage, self.processor, self.flush)
        ]
        return " | ".join(cells)


class Stopwatch(Observer):
    """Time between trials, for the first and the last of them."""

    def __init__(self, study: Study, trials: int, beside: Path) -> None:
        self.first, self.last = Costs(), Costs()
        self._trials = trials
        self._beside = beside
        self._record, study.record = study.record, self._timed  # type: ignore[method-assign]
        self._began = self._worked = 0.0
        self._recording = 0.0

    def _timed(self, trial: Trial) -> Trial:
        start = time.perf_counter()
        recorded = self._record(trial)
        self._recording = time.perf_counter() - start
        return recorded

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        took, worked = time.perf_counter() - self._began, time.process_time() - self._worked
        if trial.kind == "candidate" and progress.done > 1:
            for part, counts in (
                (self.first, progress.done <= MEASURED),
                (self.last, progress.done > self._trials - MEASURED),
            ):
                if counts:
                    part.trial.append(took)
                    part.storage.append(self._recording)
                    part.processor.append(worked)
                    part.flush.append(bare_flush(self._beside))
        self._began, self._worked = time.perf_counter(), time.process_time()


def bare_flush(file: Path) -> float:
    """Seconds to append 4 KiB to ``file`` and have them on the disk."""
    start = time.perf_counter()
    with file.open("ab") as stream:
        stream.write(os.urandom(4096))
        stream.flush()
        os.fsync(stream.fileno())
    return time.perf_counter() - start


def make_plan(trials: int) -> SearchPlan:
    models = [
        {"model": f"m{i}", "parameters": {"weight": {"float": [0, 1]}, "density": {"float": [0.1, 1]}}}
        for i in range(DIMENSIONS // 2)
    ]
    space = SearchSpace({"merge_method": "ties", "base_model": "base", "models": models})
    settings = SamplerPlan(CmaEsSettings(population=20, seed=1), starts(space))
    return SearchPlan(space, settings, FirstTask(), baselines(space), trials, top_k=1)


@contextmanager
def storage_url(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty storage."""
    if kind != "postgres":
        yield f"{kind}:///{folder}/study.{'db' if kind == 'sqlite' else 'log'}"
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from postgres_support import running_server

    with running_server() as server:
        server.execute("ALTER SYSTEM SET fsync = on")
        server.execute("SELECT pg_reload_conf()")
        yield server.new_database()


def bench(kind: str, url: str, trials: int, items: int, beside: Path) -> None:
    plan, executor = make_plan(trials), Simulated(items)
    with Study.open(url, "bench", document={}, dimensions=plan.space.dimensions) as study:
        watch = Stopwatch(study, trials, beside)
        search(plan, study, executor, [watch])
    start = time.perf_counter()
    with Study.open(url, "bench", document={}, dimensions=plan.space.dimensions) as study:
        opened = time.perf_counter()
        search(plan, study, executor)
        replayed = time.perf_counter()
    for name, part in (("first", watch.first), ("last", watch.last)):
        print(f"| {kind} | {name} {MEASURED} | {part} |", flush=True)
    print(f"\n{kind}: opened in {opened - start:.1f} s, replayed in {replayed - opened:.1f} s\n", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ["sqlite", "journal", "postgres"]
    parser.add_argument("--storage", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=200)
    chosen = parser.parse_args(arguments)
    print(
        "| storage | trials | ms a trial, median | mean | storage, median | processor, median | bare flush |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind in chosen.storage:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, storage_url(kind, Path(folder)) as url:
            bench(kind, url, chosen.trials, chosen.items, Path(folder) / "bare")


if __name__ == "__main__":
    main()
