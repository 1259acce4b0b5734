"""A search in a process of its own, to be killed: ``chaos_driver.py STORAGE_URL ORDER RAY_WORKERS LAG``.

``ORDER`` seeds the order in which evaluations finish; with 0 Ray workers they run in this process.
"""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial

from search_fakes import FakeExecutor, FakeWorker, make_plan

from evomerge.search.controller import search
from evomerge.study.study import Study
from evomerge.workers.executor import Executor

SECONDS = 0.02


def executor(order: int, workers: int) -> Executor:
    if not workers:
        return FakeExecutor(order=order, seconds=SECONDS)
    from evomerge.workers.ray_executor import RayExecutor

    return RayExecutor(partial(FakeWorker, SECONDS), workers, max_attempts=100)


if __name__ == "__main__":
    url, order, workers, lag = sys.argv[1:]
    plan = make_plan(trials=60, lag=int(lag))
    with (
        Study.open(url, "chaos", document={}, dimensions=plan.space.dimensions) as study,
        closing(executor(int(order), int(workers))) as running,
    ):
        search(plan, study, running)
