"""What the controller and the storage cost per trial, beside one bare fsynced transaction in the same store.

    python scripts/bench_controller.py [--storage URL ...] [--sizes 10 1000 10000] [--dimensions 20]

The evaluator is simulated: it looks its scores up. For each size of the study (trials already in it) the
overhead is the time from one finished trial to the next without the evaluator's, with a bare transaction
between every two, so that both see the same disk at the same time: one row with as many bytes as a trial
stores, with the same durability. It is made from the first trial on: a file that still grows costs more to
flush (SQLite writes its log over and over again once it is full), so both must have the same past. The median
is what follows a trial within a generation; the mean also has its share of asking, telling and making
recipes, which is what remains of it without the storage.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.distributions import distribution_to_json

from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import Recipe, SearchSpace
from evomerge.search.baselines import baselines, starts
from evomerge.search.controller import SearchPlan, search
from evomerge.search.observers import Observer
from evomerge.search.progress import Progress
from evomerge.search.samplers import CmaEsSettings, SamplerPlan
from evomerge.study.serialization import row_of
from evomerge.study.study import Study, Trial
from evomerge.workers.jobs import Job, Outcome, Seconds

POPULATION = 20
MEASURED = 200


class Simulated:
    """Scores from the recipe alone, at once."""

    def __init__(self, items: int) -> None:
        self.seconds = 0.0
        """Spent on scoring, in all."""
        self._items = items
        self._made: dict[tuple[Split, int], Scores] = {}

    def map(self, queue: deque[Job]) -> Iterator[Outcome]:
        while queue:
            job = queue.popleft()
            start = time.perf_counter()
            scores = self._scores(job.recipe, job.items.split)
            self.seconds += time.perf_counter() - start
            yield Outcome(job.key, scores, None, "0" * 32, Seconds())

    def close(self) -> None:
        pass

    def _scores(self, recipe: Recipe, split: Split) -> Scores:
        total = sum(float(w) for s in recipe.models or () for w in s.parameters.values())
        right = round((0.5 + 0.4 * math.sin(total)) * self._items)
        if (split, right) not in self._made:
            items = tuple(ItemScore(f"{i:016x}", float(i < right)) for i in range(self._items))
            task = TaskScore("t", "acc", right / self._items, True, "mean", items)  # noqa: FBT003
            self._made[split, right] = Scores(split, (task,))
        return self._made[split, right]


class FirstTask:
    def score(self, scores: Scores) -> float:
        return scores.tasks[0].value


@dataclass
class Stopwatch(Observer):
    """Time between trials, kept from the moment the study holds ``size`` candidates."""

    size: int
    url: str
    study: Study
    executor: Simulated
    overhead: list[float] = field(default_factory=list)
    storage: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    last: float = 0.0
    payload: str = ""

    def __post_init__(self) -> None:
        self.bare = bare_transaction(self.url)
        self._record, self.study.record = self.study.record, self.record

    def record(self, trial: Trial) -> Trial:
        """What the search calls instead of ``Study.record``."""
        start = time.perf_counter()
        recorded = self._record(trial)
        self._recording = time.perf_counter() - start
        return recorded

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        if trial.kind == "candidate":
            overhead = time.perf_counter() - self.executor.seconds - self.last
            if not self.payload or progress.done == self.size + 1:
                gc.collect()  # one takes 60 to 120 ms, and would fall to one size or another at random
                self.payload = random.Random(0).randbytes(stored_bytes(self.study, trial) // 2).hex()
            start = time.perf_counter()
            self.bare(self.payload)
            single = time.perf_counter() - start
            if progress.done > self.size:
                self.overhead.append(overhead)
                self.storage.append(self._recording)
                self.single.append(single)
        self.last = time.perf_counter() - self.executor.seconds


def stored_bytes(study: Study, trial: Trial) -> int:
    """Bytes that a trial puts into a storage, without keys and indexes."""
    row = row_of(trial, study._distributions, study._items, "0" * 32)  # noqa: SLF001
    parameters = sum(len(name) + 8 + len(distribution_to_json(d)) for name, (d, _) in row.parameters.items())
    return parameters + sum(
        len(json.dumps(value)) for value in (*row.attributes.values(), *row.system.values())
    )


def bare_transaction(url: str) -> Callable[[str], None]:
    """Writes one row in one transaction, as directly as the store allows."""
    if url.startswith("sqlite:///"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///") + ".bare", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS bare (payload TEXT)")

        def sqlite(payload: str) -> None:
            connection.execute("BEGIN")
            connection.execute("INSERT INTO bare VALUES (?)", (payload,))
            connection.execute("COMMIT")

        return sqlite
    if url.startswith("postgresql"):
        import psycopg

        server = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        server.execute("CREATE TABLE IF NOT EXISTS bare (payload TEXT)")

        def postgres(
            payload: str,
        ) -> None:  # one statement is one transaction, and one way to the server and back
            server.execute("INSERT INTO bare VALUES (%s)", (payload,))

        return postgres
    path = Path(url.removeprefix("journal:///") + ".bare")

    def journal(payload: str) -> None:
        with path.open("ab") as file:
            file.write(payload.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    return journal


def make_plan(dimensions: int, trials: int) -> SearchPlan:
    models = [
        {"model": f"m{i}", "parameters": {"weight": {"float": [0, 1]}, "density": {"float": [0.1, 1]}}}
        for i in range(dimensions // 2)
    ]
    space = SearchSpace({"merge_method": "ties", "base_model": "base", "models": models})
    settings = SamplerPlan(CmaEsSettings(population=POPULATION, seed=1), starts(space))
    return SearchPlan(space, settings, FirstTask(), baselines(space), trials, top_k=1)


def bench(url: str, sizes: Sequence[int], dimensions: int, items: int) -> None:
    print(f"\n{url.split(':', maxsplit=1)[0]}: {dimensions} dimensions, {items} items a trial")
    executor = Simulated(items)
    for size in sizes:
        plan = make_plan(dimensions, size + MEASURED)
        start = time.perf_counter()
        study = Study.open(url, "bench", document={}, dimensions=plan.space.dimensions)
        opening = time.perf_counter() - start
        watch = Stopwatch(size, url, study, executor)
        filled = len(study.candidates())
        search(plan, study, executor, watch)
        study.close()
        one, stored, bare = map(statistics.median, (watch.overhead, watch.storage, watch.single))
        mean, storing, single = map(statistics.mean, (watch.overhead, watch.storage, watch.single))
        print(
            f"  {size:>6} trials: median {one * 1e3:5.2f} ms a trial, of which storage {stored * 1e3:5.2f}; "
            f"bare transaction of {len(watch.payload)} bytes {bare * 1e3:5.2f}; ratio {one / bare:4.1f}\n"
            f"                 mean {mean * 1e3:5.2f} ms a trial: storage {storing * 1e3:5.2f}, "
            f"proposing and filling {(mean - storing) * 1e3:5.2f}; bare {single * 1e3:5.2f}; "
            f"ratio {mean / single:4.1f}, of storage alone {storing / single:4.1f} "
            f"(opened with {filled} trials in {opening:.2f} s)",
            flush=True,
        )
    replay(url, sizes[-1] + MEASURED, dimensions, executor)


def replay(url: str, trials: int, dimensions: int, executor: Simulated) -> None:
    """A finished study is opened and brought up to date: reading and replay, and nothing to do."""
    plan = make_plan(dimensions, trials)
    start = time.perf_counter()
    study = Study.open(url, "bench", document={}, dimensions=plan.space.dimensions)
    opened = time.perf_counter()
    search(plan, study, executor)
    done = time.perf_counter()
    study.close()
    print(f"  start-up with {trials} trials: read {opened - start:.2f} s, replayed {done - opened:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storage", nargs="*", help="URLs of empty storages (default: SQLite and a journal)")
    parser.add_argument("--sizes", nargs="*", type=int, default=[10, 1_000, 10_000])
    parser.add_argument("--dimensions", type=int, default=20)
    parser.add_argument("--items", type=int, default=200)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=Path.cwd()))
    try:
        for url in arguments.storage or [f"sqlite:///{folder}/study.db", f"journal:///{folder}/study.log"]:
            bench(url, arguments.sizes, arguments.dimensions, arguments.items)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
