"""How well a search uses its workers: a simulated evaluator that sleeps for a second, on real Ray workers.

    python scripts/bench_scaling.py [--workers 1 8 64] [--rounds 1 4] [--generations 4] [--seconds 1]

All but the evaluation is real: sampler, controller, Ray, SQLite. A generation has ``--rounds`` candidates
for each worker, but four at least (fewer teach CMA-ES nothing). The ideal is what the evaluations alone would
take; efficiency is that over the time from the start of the first generation to the end of the last, with all
workers up before. A worker asks Ray for next to no CPU, so 64 of them run on a small machine.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import Recipe, SearchSpace, Source
from evomerge.search.baselines import starts
from evomerge.search.controller import SearchPlan, search
from evomerge.search.progress import Phase, Progress, Quiet
from evomerge.search.samplers import SamplerSettings, make_sampler
from evomerge.search.study import Study, Trial
from evomerge.workers.jobs import Job, Outcome, Seconds
from evomerge.workers.ray_executor import RayExecutor

ITEMS = 200
CPUS = 0.01


class Sleeper:
    """Scores from the recipe alone, within ``seconds``; its process id stands in for a fingerprint."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def run(self, job: Job) -> Outcome:
        until = time.monotonic() + self._seconds
        total = sum(float(w) for s in job.recipe.models or () for w in s.parameters.values())
        right = round((0.5 + 0.4 * math.sin(total)) * ITEMS)
        items = tuple(ItemScore(f"{i:016x}", float(i < right)) for i in range(ITEMS))
        task = TaskScore("t", "acc", right / ITEMS, True, "mean", items)  # noqa: FBT003
        outcome = Outcome(job.key, Scores(job.split, (task,)), None, str(os.getpid()), Seconds())
        time.sleep(max(0.0, until - time.monotonic()))
        return outcome


class FirstTask:
    def score(self, scores: Scores) -> float:
        return scores.tasks[0].value


@dataclass
class Stopwatch(Quiet):
    """When the first generation began, and when each ended."""

    began: float = 0.0
    ended: list[float] = field(default_factory=list)

    def on_phase(self, progress: Progress) -> None:
        if progress.phase is Phase.SEARCH:
            self.began = time.perf_counter()

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:  # noqa: ARG002
        self.ended.append(time.perf_counter())


def make_plan(population: int, generations: int) -> SearchPlan:
    models = [
        {"model": f"m{i}", "parameters": {"weight": {"float": [0, 1]}, "density": {"float": [0.1, 1]}}}
        for i in range(5)
    ]
    space = SearchSpace({"merge_method": "ties", "base_model": "base", "models": models})
    settings = SamplerSettings("cma_es", population, seed=1, starts=starts(space))
    return SearchPlan(space, settings, FirstTask(), (), population * generations, top_k=1)


def wait_for_all(executor: RayExecutor, recipe: Recipe) -> None:
    """Runs jobs until every worker has had one."""
    jobs = [Job(f"warm-up {i}", recipe, Split.SEARCH) for i in range(executor.count)]
    while len({outcome.fingerprint for outcome in executor.map(deque(jobs))}) < executor.count:
        pass


def bench(workers: int, all_rounds: Sequence[int], generations: int, seconds: float) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-scaling-"))
    executor = RayExecutor(partial(Sleeper, seconds), workers, cpus_per_worker=CPUS)
    try:
        with closing(executor):
            start = time.perf_counter()
            wait_for_all(executor, Recipe(merge_method="linear", models=(Source(model="m"),)))
            up = time.perf_counter() - start
            for rounds in all_rounds:
                population = max(4, workers * rounds)
                url = f"sqlite:///{folder / f'{rounds}.db'}"
                actual = run(make_plan(population, generations), url, executor)
                ideal = generations * math.ceil(population / workers) * seconds
                figures = f"{ideal:.1f} | {actual:.2f} | {ideal / actual:.3f} | {up:.0f}"
                print(f"| {workers} | {population} | {generations} | {figures} |", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(plan: SearchPlan, url: str, executor: RayExecutor) -> float:
    """Seconds that the generations took."""
    make_sampler(plan.sampler, plan.space.dimensions)  # imports pycma, some seconds once in a process
    watch = Stopwatch()
    with Study.open(url, "bench", document={}, dimensions=plan.space.dimensions) as study:
        search(plan, study, executor, watch)
    return watch.ended[-1] - watch.began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument(
        "--rounds", type=int, nargs="+", default=[1, 4], help="candidates of a generation for each worker"
    )
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="what one evaluation takes")
    arguments = parser.parse_args()
    print("| workers | generation size | generations | ideal s | actual s | efficiency | start-up s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for workers in arguments.workers:
        bench(workers, arguments.rounds, arguments.generations, arguments.seconds)


if __name__ == "__main__":
    main()
