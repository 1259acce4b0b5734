"""What every executor promises: one outcome per job, whatever happens to it, and an end in order."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evomerge.errors import CheckpointError, FailureKind, RecipeError
from evomerge.fitness.items import ItemSet
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import Recipe, Source
from evomerge.workers.executor import Executor, MakeWorker
from evomerge.workers.inline import InlineExecutor
from evomerge.workers.jobs import Failure, Job, Outcome, Seconds
from evomerge.workers.ray_executor import RayExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray's workers are looked at in /proc")

EXECUTORS: dict[str, Callable[[MakeWorker], Executor]] = {
    "inline": InlineExecutor,
    "ray": lambda make_worker: RayExecutor(make_worker, 2),
}
"""A new executor gets its line here."""


class Worker:
    """Answers with a score that follows from the job; fails or raises where the key says so."""

    def __init__(self, marker: Path | None = None) -> None:
        self.marker = marker

    def run(self, job: Job) -> Outcome:
        what, _, argument = job.key.partition(":")
        if what == "fail":
            failure = Failure(FailureKind.NON_FINITE_WEIGHTS, argument)
            return Outcome(job.key, None, failure, None, Seconds(0.1))
        if what == "refuse":
            raise RecipeError("recipe.yml: models", "too few", "Add one.")
        if what == "bug":
            raise ZeroDivisionError(argument)
        value = job.recipe.parameters["weight"] / 3
        task = TaskScore("t", "acc", value, True, "mean", (ItemScore("i", value),))  # noqa: FBT003
        return Outcome(job.key, Scores(job.items.split, (task,)), None, f"weights {value}", Seconds(0.1, 0.2))

    def close(self) -> None:
        if self.marker is not None:
            self.marker.with_name(f"{self.marker.name}-{os.getpid()}").touch()


def no_worker() -> Worker:
    raise CheckpointError("models.a", "no such folder")


class Closing:
    """Makes workers that leave a file when they are closed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self) -> Worker:
        return Worker(self.marker)


def job(key: str, weight: float = 1.0) -> Job:
    recipe = Recipe(merge_method="linear", models=(Source(model="a"),), parameters={"weight": weight})
    return Job(key, recipe, ItemSet(Split.SEARCH))


@pytest.fixture(params=EXECUTORS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[MakeWorker], Executor]]:
    made: list[Executor] = []

    def make(worker: MakeWorker = Worker) -> Executor:
        made.append(EXECUTORS[request.param](worker))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


Make = Callable[..., Executor]


def test_every_job_has_one_outcome_which_depends_on_the_job_alone(make: Make) -> None:
    executor = make()
    jobs = [job(f"score:{n}", n / 7) for n in range(12)]
    outcomes = list(executor.map(deque(jobs)))
    assert sorted(o.key for o in outcomes) == sorted(j.key for j in jobs)
    backwards = list(executor.map(deque(reversed(jobs))))
    assert {o.key: o for o in outcomes} == {o.key: o for o in backwards}
    for outcome in outcomes:
        assert outcome.scores is not None
        assert outcome.fingerprint == f"weights {outcome.scores.tasks[0].value}"


def test_a_failure_is_an_outcome_and_the_others_go_on(make: Make) -> None:
    outcomes = {o.key: o for o in make().map(deque([job("score:1"), job("fail:NaN in w"), job("score:2")]))}
    assert outcomes["fail:NaN in w"].failure == Failure(FailureKind.NON_FINITE_WEIGHTS, "NaN in w")
    assert outcomes["fail:NaN in w"].scores is None
    assert all(outcomes[k].failure is None for k in ("score:1", "score:2"))


def test_jobs_may_be_added_between_two_outcomes(make: Make) -> None:
    queue, seen = deque([job("score:1")]), []
    for outcome in make().map(queue):
        seen.append(outcome.key)
        if len(seen) < 4:
            queue.append(job(f"score:{len(seen) + 1}"))
    assert seen == ["score:1", "score:2", "score:3", "score:4"]


def test_no_jobs_are_no_outcomes(make: Make) -> None:
    assert list(make().map(deque())) == []


def test_a_mistake_of_the_users_is_raised_as_the_worker_raised_it(make: Make) -> None:
    executor = make()
    with pytest.raises(RecipeError) as caught:
        list(executor.map(deque([job("refuse")])))
    assert (caught.value.where, caught.value.reason, caught.value.hint) == (
        "recipe.yml: models",
        "too few",
        "Add one.",
    )


def test_a_worker_that_cannot_be_built_is_a_mistake_of_the_users(make: Make) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        list(make(no_worker).map(deque([job("score:1")])))


def test_a_bug_is_raised_with_its_type(make: Make) -> None:
    with pytest.raises(ZeroDivisionError):
        list(make().map(deque([job("bug:1")])))


def test_an_iterator_that_is_left_early_abandons_what_was_taken(make: Make) -> None:
    executor = make()
    queue = deque(job(f"score:{n}") for n in range(6))
    next(iter(executor.map(queue)))
    later = [o.key for o in executor.map(deque([job("score:9")]))]
    assert later == ["score:9"]


def test_a_close_closes_the_workers_may_come_twice_and_lets_a_later_map_build_others(
    make: Make, tmp_path: Path
) -> None:
    executor = make(Closing(tmp_path / "closed"))
    assert len(list(executor.map(deque([job("score:1"), job("score:2")])))) == 2
    executor.close()
    executor.close()
    assert list(tmp_path.iterdir())
    assert len(list(executor.map(deque([job("score:3")])))) == 1
