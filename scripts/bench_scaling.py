"""How well a search uses its workers: a simulated evaluator that sleeps for a second, on real Ray workers.

    python scripts/bench_scaling.py [--workers 1 8 64] [--rounds 1 4] [--generations 4] [--seconds 1]
    python scripts/bench_scaling.py --workers 8 64 --population 64 --generations 30 --spread 0.6 --lag 0 2

All but the evaluation is real: sampler, controller, Ray, SQLite. A generation has ``--population``
candidates, or ``--rounds`` for each worker, but four at least (fewer teach CMA-ES nothing). ``--lag`` counts
candidates for each worker, too. With ``--spread`` an evaluation takes seconds from a log-normal distribution
with the mean ``--seconds`` (0.6: a tenth takes longer than 1.8 s, one of a hundred longer than 3.4 s), always
the same for one candidate. The ideal is what the evaluations alone would take, spread evenly; efficiency is
that over the time from the start of the first generation to the last outcome, with all workers up before. A
worker asks Ray for next to no CPU, so 64 of them run on a small machine.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evomerge.fitness.items import ItemSet
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import Recipe, SearchSpace, Source
from evomerge.search.baselines import starts
from evomerge.search.controller import SearchPlan, search
from evomerge.search.observers import Observer
from evomerge.search.progress import Phase, Progress
from evomerge.search.samplers import CmaEsSettings, SamplerPlan, make_sampler
from evomerge.study.study import Study, Trial
from evomerge.workers.jobs import Job, Outcome, Seconds
from evomerge.workers.ray_executor import RayExecutor

ITEMS = 200
CPUS = 0.01


class Sleeper:
    """Scores from the recipe alone, within its seconds; its process id stands in for a fingerprint."""

    def __init__(self, seconds: float, spread: float) -> None:
        self._seconds, self._spread = seconds, spread

    def run(self, job: Job) -> Outcome:
        drawn = random.Random(job.recipe.key()).gauss(-(self._spread**2) / 2, self._spread)
        seconds = self._seconds * math.exp(drawn)
        until = time.monotonic() + seconds
        total = sum(float(w) for s in job.recipe.models or () for w in s.parameters.values())
        right = round((0.5 + 0.4 * math.sin(total)) * ITEMS)
        items = tuple(ItemScore(f"{i:016x}", float(i < right)) for i in range(ITEMS))
        task = TaskScore("t", "acc", right / ITEMS, True, "mean", items)  # noqa: FBT003
        outcome = Outcome(
            job.key, Scores(job.items.split, (task,)), None, str(os.getpid()), Seconds(0.0, seconds)
        )
        time.sleep(max(0.0, until - time.monotonic()))
        return outcome


class FirstTask:
    def score(self, scores: Scores) -> float:
        return scores.tasks[0].value


@dataclass
class Stopwatch(Observer):
    """When the first generation began and the last candidate ended; how long evaluations alone took."""

    began: float = 0.0
    ended: float = 0.0
    slept: float = 0.0

    def on_phase(self, progress: Progress) -> None:
        if progress.phase is Phase.SEARCH:
            self.began = time.perf_counter()

    def on_trial(self, trial: Trial, progress: Progress) -> None:  # noqa: ARG002
        self.ended = time.perf_counter()
        self.slept += trial.seconds.evaluate


def make_plan(population: int, generations: int, lag: int) -> SearchPlan:
    models = [
        {"model": f"m{i}", "parameters": {"weight": {"float": [0, 1]}, "density": {"float": [0.1, 1]}}}
        for i in range(5)
    ]
    space = SearchSpace({"merge_method": "ties", "base_model": "base", "models": models})
    settings = SamplerPlan(CmaEsSettings(population=population, seed=1), starts(space))
    return SearchPlan(space, settings, FirstTask(), (), population * generations, top_k=1, lag=lag)


def wait_for_all(executor: RayExecutor, recipe: Recipe) -> None:
    """Runs jobs until every worker has had one."""
    jobs = [Job(f"warm-up {i}", recipe, ItemSet(Split.SEARCH)) for i in range(executor.count)]
    while len({outcome.fingerprint for outcome in executor.map(deque(jobs))}) < executor.count:
        pass


@dataclass(frozen=True)
class Load:
    """What is searched: sizes of generations, lags in candidates for each worker."""

    populations: Sequence[int]
    lags: Sequence[int]
    generations: int
    seconds: float
    spread: float


def bench(workers: int, load: Load) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-scaling-"))
    executor = RayExecutor(partial(Sleeper, load.seconds, load.spread), workers, cpus_per_worker=CPUS)
    try:
        with closing(executor):
            start = time.perf_counter()
            wait_for_all(executor, Recipe(merge_method="linear", models=(Source(model="m"),)))
            up = time.perf_counter() - start
            for population, lag in itertools.product(load.populations, load.lags):
                url = f"sqlite:///{folder / f'{population}-{lag}.db'}"
                watch = run(make_plan(population, load.generations, lag * workers), url, executor)
                ideal, actual = watch.slept / workers, watch.ended - watch.began
                sizes = f"{workers} | {population} | {lag * workers} | {load.spread:g} | {load.generations}"
                print(
                    f"| {sizes} | {ideal:.1f} | {actual:.2f} | {ideal / actual:.3f} | {up:.0f} |", flush=True
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(plan: SearchPlan, url: str, executor: RayExecutor) -> Stopwatch:
    """What the generations took."""
    make_sampler(plan.sampler, plan.space.dimensions)  # imports pycma, some seconds once in a process
    watch = Stopwatch()
    with Study.open(url, "bench", document={}, dimensions=plan.space.dimensions) as study:
        search(plan, study, executor, watch)
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument(
        "--rounds", type=int, nargs="+", default=[1, 4], help="candidates of a generation for each worker"
    )
    parser.add_argument("--population", type=int, nargs="+", help="candidates of a generation")
    parser.add_argument("--lag", type=int, nargs="+", default=[0], help="candidates ahead for each worker")
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="what one evaluation takes")
    parser.add_argument("--spread", type=float, default=0.0, help="standard deviation of its logarithm")
    arguments = parser.parse_args()
    columns = "workers | generation size | lag | spread | generations | ideal s | actual s | efficiency"
    print(f"| {columns} | start-up s |\n{'|---' * 9}|", flush=True)
    for workers in arguments.workers:
        populations = arguments.population or [max(4, workers * rounds) for rounds in arguments.rounds]
        bench(
            workers,
            Load(populations, arguments.lag, arguments.generations, arguments.seconds, arguments.spread),
        )


if __name__ == "__main__":
    main()
