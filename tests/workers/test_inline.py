from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest

from evomerge.fitness.items import ItemSet
from evomerge.fitness.scores import Split
from evomerge.recipe import Recipe, Source
from evomerge.workers.executor import Executor
from evomerge.workers.inline import InlineExecutor
from evomerge.workers.jobs import Job, Outcome, Seconds


class Recorder:
    """A worker that notes what happens to it."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        log.append("built")

    def run(self, job: Job) -> Outcome:
        self.log.append(job.key)
        return Outcome(job.key, None, None, job.recipe.merge_method, Seconds())

    def close(self) -> None:
        self.log.append("closed")


class Plain:
    """A worker with nothing to close."""

    def run(self, job: Job) -> Outcome:
        return Outcome(job.key, None, None, None, Seconds())


def jobs(*keys: str) -> deque[Job]:
    recipe = Recipe(merge_method="linear", models=(Source(model="a"),))
    return deque(Job(key, recipe, ItemSet(Split.SEARCH)) for key in keys)


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def executor(log: list[str]) -> Iterator[InlineExecutor]:
    executor = InlineExecutor(lambda: Recorder(log))
    yield executor
    executor.close()


def test_outcomes_come_in_the_order_of_the_jobs(executor: Executor) -> None:
    assert [outcome.key for outcome in executor.map(jobs("c", "a", "b"))] == ["c", "a", "b"]


def test_the_worker_is_built_once_and_for_the_first_job(executor: InlineExecutor, log: list[str]) -> None:
    list(executor.map(jobs()))
    assert log == []
    list(executor.map(jobs("a", "b")))
    list(executor.map(jobs("c")))
    assert log == ["built", "a", "b", "c"]


def test_a_job_starts_only_when_its_outcome_is_asked_for(executor: InlineExecutor, log: list[str]) -> None:
    outcomes = executor.map(jobs("a", "b"))
    next(outcomes)
    assert log == ["built", "a"]


def test_close_closes_the_worker_once_and_map_builds_another(
    executor: InlineExecutor, log: list[str]
) -> None:
    list(executor.map(jobs("a")))
    executor.close()
    executor.close()
    list(executor.map(jobs("b")))
    assert log == ["built", "a", "closed", "built", "b"]


def test_a_worker_needs_no_close() -> None:
    executor = InlineExecutor(Plain)
    list(executor.map(jobs("a")))
    executor.close()
