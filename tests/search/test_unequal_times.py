"""Real Ray workers whose evaluations take very different times."""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path

import pytest
from search_fakes import FakeExecutor, FakeWorker, make_plan

from evomerge.search.controller import search
from evomerge.study.study import Study
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.ray_executor import RayExecutor


class UnevenWorker(FakeWorker):
    """Every run of a job takes another time."""

    def __init__(self) -> None:
        super().__init__(seconds=0.0)

    def run(self, job: Job) -> Outcome:
        time.sleep(random.choice([0.0, 0.0, 0.02, 0.3]))
        return super().run(job)


@pytest.mark.slow
def test_with_a_lag_the_study_is_that_of_one_process_though_later_generations_overtake(
    tmp_path: Path,
) -> None:
    plan = make_plan(trials=40, lag=10)
    studies = [
        Study.open(f"journal:///{tmp_path}/{i}.log", "s", document={}, dimensions=plan.space.dimensions)
        for i in range(2)
    ]
    search(plan, studies[0], FakeExecutor())
    with closing(RayExecutor(UnevenWorker, 4)) as executor:
        search(plan, studies[1], executor)
    assert studies[1].snapshot() == studies[0].snapshot()
    finished = [t.generation for t in sorted(studies[1].candidates(), key=lambda t: t.number)]
    assert finished != sorted(finished)
