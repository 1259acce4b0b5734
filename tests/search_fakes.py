"""A search without models: small spaces, an executor that computes scores from the recipe alone."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from evomerge.errors import FailureKind
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import Recipe, SearchSpace
from evomerge.search.baselines import baselines, starts
from evomerge.search.controller import SearchPlan, search
from evomerge.search.observers import Observer
from evomerge.search.progress import Progress
from evomerge.search.samplers import SAMPLERS, SamplerPlan
from evomerge.study.manifest import MANIFEST, Manifest
from evomerge.study.study import SplitResult, Study, Trial
from evomerge.workers.jobs import Failure, Job, Outcome, Seconds

MIXED: dict[str, Any] = {
    "merge_method": {"choice": ["ties", "dare_ties"]},
    "base_model": "zoo/base",
    "models": [
        {"model": "zoo/math", "parameters": {"weight": {"float": [0, 1.5]}, "density": {"float": [0.1, 1]}}},
        {"model": "zoo/code", "parameters": {"weight": {"float": [0, 1.5]}, "density": 0.5}},
    ],
    "parameters": {"lambda": {"float": [0.5, 2], "init": 1, "log": True}},
    "dtype": "float32",
}
DISCRETE: dict[str, Any] = {
    "merge_method": "linear",
    "models": [
        {"model": "zoo/math", "parameters": {"weight": {"int": [0, 2]}}},
        {"model": "zoo/code", "parameters": {"weight": {"int": [0, 2]}}},
    ],
}


class MeanScore:
    """The mean of the tasks' values: stands in for the real Fitness."""

    def score(self, scores: Scores) -> float:
        return sum(t.value for t in scores.tasks) / len(scores.tasks)

    def interval(self, scores: Scores, confidence: float = 0.95) -> tuple[float, float]:
        middle = self.score(scores)
        return middle - 0.1, middle + 0.1


def make_plan(
    document: Mapping[str, Any] = MIXED,
    trials: int = 24,
    population: int = 8,
    sampler: str = "cma_es",
    top_k: int = 3,
    lag: int = 0,
) -> SearchPlan:
    space = SearchSpace(document)
    settings = SAMPLERS[sampler].Settings(population=population, seed=7)
    return SearchPlan(
        space, SamplerPlan(settings, starts(space)), MeanScore(), baselines(space), trials, top_k, lag
    )


def weights_of(recipe: Recipe) -> list[float]:
    found = [source.parameters.get("weight", 1.0) for source in recipe.models or ()]
    return [float(w) for w in found]


def fake_scores(recipe: Recipe, split: Split) -> Scores:
    """Best at weights 0.3 and 0.9; another split shifts them a little; quantised by 20 items."""
    shift = {Split.SEARCH: 0.0, Split.VALIDATION: 0.05, Split.TEST: -0.05}[split]
    strength = float(recipe.parameters.get("lambda", 1.0)) + (
        0.1 if recipe.merge_method == "dare_ties" else 0
    )
    distance = sum(
        abs(w * strength - t - shift) for w, t in zip(weights_of(recipe), (0.3, 0.9), strict=False)
    )
    items = tuple(ItemScore(f"item{i:02d}", float(distance < 0.1 * (i + 1))) for i in range(20))
    value = sum(i.value for i in items) / len(items)
    return Scores(
        split,
        (
            task_score("steps", "acc", value, items),
            task_score("smooth", "neg_distance", -distance, (ItemScore("all", -distance),)),
        ),
    )


def task_score(task: str, metric: str, value: float, items: tuple[ItemScore, ...]) -> TaskScore:
    return TaskScore(task, metric, value, higher_is_better=True, aggregation="mean", items=items)


def heavy_fails(recipe: Recipe) -> bool:
    return bool(recipe.models) and weights_of(recipe)[0] > 1.2


class Killed(BaseException):
    """Stands in for SIGKILL where a test wants to say when."""


class KillAfterWrite(Observer):
    """Dies after a given number of writes, whatever was written."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        self._count()

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
        self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed


class FakeExecutor:
    """Outcomes in an order of its own; ``lives`` outcomes before it dies. ``workers`` jobs run at a time."""

    def __init__(
        self,
        order: int | None = None,
        fails: Callable[[Recipe], bool] = heavy_fails,
        lives: int | None = None,
        seconds: float = 0.0,
        workers: int = 1000,
    ) -> None:
        self.jobs: list[Job] = []
        self._order = None if order is None else random.Random(order)
        self._fails = fails
        self._lives = lives
        self._seconds = seconds
        self._workers = workers

    def map(self, queue: deque[Job]) -> Iterator[Outcome]:
        running: list[Job] = []
        while queue or running:
            while queue and len(running) < self._workers:
                running.append(queue.popleft())
            job = running.pop(0 if self._order is None else self._order.randrange(len(running)))
            if self._lives is not None and len(self.jobs) >= self._lives:
                raise Killed
            self.jobs.append(job)
            time.sleep(self._seconds)
            yield self._outcome(job)

    def close(self) -> None:
        pass

    def _outcome(self, job: Job) -> Outcome:
        seconds = Seconds(random.random(), random.random())  # measured: differs from run to run
        if self._fails(job.recipe):
            failure = Failure(FailureKind.NON_FINITE_WEIGHTS, "model.norm.weight holds NaN")
            return Outcome(job.key, None, failure, None, seconds)
        scores = fake_scores(job.recipe, job.items.split)
        return Outcome(job.key, scores, None, f"xxh:{hash_of(job.recipe)}", seconds)


class FakeWorker:
    """The same, for an executor with processes of its own."""

    def __init__(self, seconds: float) -> None:
        self._executor = FakeExecutor(seconds=seconds)

    def run(self, job: Job) -> Outcome:
        return next(self._executor.map(deque([job])))


def hash_of(recipe: Recipe) -> str:
    import hashlib

    return hashlib.sha256(recipe.key().encode()).hexdigest()[:16]


def reference(plan: SearchPlan, tmp_path: Path) -> Study:
    """What a search without any trouble leaves."""
    url = f"journal:///{tmp_path}/reference.log"
    study = Study.open(url, "s", document={}, dimensions=plan.space.dimensions)
    search(plan, study, FakeExecutor())
    return study


class Disturbed(AbstractContextManager[None]):
    """Calls ``begin`` and, so many ``seconds`` later, ``end``, again and again while it is entered."""

    def __init__(
        self, begin: Callable[[], None], end: Callable[[], None], *, every: float, seconds: float
    ) -> None:
        self.times = 0
        self._begin, self._end = begin, end
        self._every, self._seconds = every, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._disturb)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _disturb(self) -> None:
        while not self._done.wait(self._every):
            self._begin()
            self._done.wait(self._seconds)
            self._end()
            self.times += 1


def check_search(
    plan: SearchPlan,
    study: Study,
    url: str,
    expected: Study,
    during: AbstractContextManager[None] | None = None,
) -> None:
    """Searches in ``study`` and compares what it then holds, and what is at ``url``, with ``expected``.

    ``during`` is what disturbs the search, and only that: who only reads does not wait for a storage.
    """
    executor = FakeExecutor(order=1, seconds=0.05)
    with during or nullcontext():
        search(plan, study, executor)
    assert len(executor.jobs) == len({(j.key, j.items) for j in executor.jobs})  # nothing evaluated twice
    again = Study.open(url, "s")
    assert again.digest() == study.digest() == expected.digest()
    assert len({t.number for t in again.trials()}) == len(again.trials())


def note_drift(study: Study, lag: int, now: Mapping[str, str]) -> None:
    """What release 0.1.0 wrote where its user accepted a drift with ``--accept-drift``."""
    drift = {
        "generations": len(study.generations()),
        "candidates": len(study.candidates()),
        "closed": study.count_closed(lag),
        "versions": dict(now),
    }
    stored = study._manifest.stored()
    drifts = [*stored.get("drifts", []), drift]
    study._set_manifest(Manifest.read({MANIFEST: {**stored, "drifts": drifts}}, "here"))
