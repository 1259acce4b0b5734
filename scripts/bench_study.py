"""What a trial and a start-up cost in a study of many trials, on every storage.

    python scripts/bench_study.py [--trials 10000] [--items 100] [--postgres URL]

Writes that many trials, each with scores of ``--items`` items, and reports the median and the 90 % quantile
of the last 500 writes, beside a bare fsync of 4 KiB between every two of them; then what it takes to open the
study again for writing, and to have the sampler (CMA-ES, 20 dimensions) replay it.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import SearchSpace
from evomerge.search.samplers import CmaEsSettings, SamplerPlan
from evomerge.search.stream import open_stream
from evomerge.study.study import Study, Trial
from evomerge.workers.jobs import Seconds

DIMENSIONS = 20
LAST = 500


def space() -> SearchSpace:
    models = [{"model": f"m{i}", "parameters": {"weight": {"float": [0, 1]}}} for i in range(DIMENSIONS)]
    return SearchSpace({"merge_method": "linear", "models": models})


def scores(generator: random.Random, count: int) -> Scores:
    items = tuple(ItemScore(f"item-{i}", float(generator.random() < 0.5)) for i in range(count))
    value = sum(item.value for item in items) / count
    task = TaskScore("task", "acc", value, higher_is_better=True, aggregation="mean", items=items)
    return Scores(Split.SEARCH, (task,))


def bare_fsync(file: Path, size: int) -> float:
    start = time.perf_counter()
    with file.open("ab") as stream:
        stream.write(os.urandom(size))
        stream.flush()
        os.fsync(stream.fileno())
    return time.perf_counter() - start


def fill(url: str, trials: int, items: int, beside: Path) -> tuple[list[float], list[float]]:
    """Seconds of the last writes, and of a bare fsync after each."""
    generator, where = random.Random(0), space()
    plan = SamplerPlan(CmaEsSettings(population=20))
    writes, bare = [], []
    with Study.open(url, "bench", document={}, dimensions=where.dimensions) as study:
        stream = open_stream(plan, where.dimensions, 0, trials, study)
        running = list(stream.take())
        while running:
            p = running.pop(0)
            found = scores(generator, items)
            trial = Trial(
                "candidate",
                f"g{p.generation}.{p.index}",
                p.generation,
                p.index,
                f"{p.generation}.{p.index}",
                p.vector,
                where.decode(p.vector),
                (found.tasks[0].value,),
                found,
                fingerprint="0" * 32,
                seconds=Seconds(0.1, 1.0),
            )
            start = time.perf_counter()
            recorded = study.record(trial)
            took = time.perf_counter() - start
            if recorded.number >= trials - LAST:
                writes.append(took)
                bare.append(bare_fsync(beside, 4096))
            stream.finished(recorded)
            while stream.tell():
                running += stream.take()
    return writes, bare


def start_up(url: str, trials: int) -> tuple[float, float]:
    """Seconds to open the study, and to replay it."""
    where = space()
    start = time.perf_counter()
    with Study.open(url, "bench", document={}, dimensions=where.dimensions) as study:
        opened = time.perf_counter()
        open_stream(SamplerPlan(CmaEsSettings(population=20)), where.dimensions, 0, trials, study)
        return opened - start, time.perf_counter() - opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--postgres", help="URL of an empty database; left out if not given")
    arguments = parser.parse_args()
    print("| storage | trial ms (median) | 90 % | bare fsync ms | open s | replay s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        urls = {"SQLite": f"sqlite:///{folder}/study.db", "journal": f"journal:///{folder}/study.log"}
        if arguments.postgres:
            urls["PostgreSQL"] = arguments.postgres
        for name, url in urls.items():
            writes, bare = fill(url, arguments.trials, arguments.items, Path(folder) / "bare")
            opened, replayed = start_up(url, arguments.trials)
            quantile = sorted(writes)[int(0.9 * len(writes))]
            cells = (statistics.median(writes), quantile, statistics.median(bare))
            print(
                f"| {name} |",
                *(f"{c * 1000:.1f} |" for c in cells),
                f"{opened:.1f} | {replayed:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
