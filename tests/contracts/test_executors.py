"""What every executor promises: one outcome per job, the same whoever runs it and whenever. Real Ray."""

from __future__ import annotations

import functools
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from executor_support import ClosingWorker, ObedientWorker, by_key, job, make_no_worker
from support import ROOT, ZOO

from evomerge.errors import CheckpointError, FailureKind, RecipeError
from evomerge.fitness import FitnessSpec, ItemSet, Split
from evomerge.recipe import parse_recipe
from evomerge.workers._ray_cluster import start_or_join
from evomerge.workers.executor import Executor, MakeWorker
from evomerge.workers.inline import InlineExecutor
from evomerge.workers.jobs import Failure, Job
from evomerge.workers.ray_executor import RayExecutor
from evomerge.workers.worker import WorkerSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray is supported on Linux here")

MakeExecutor = Callable[[MakeWorker], Executor]

RAY = {"Ray, one worker": 1, "Ray, two workers": 2}
EXECUTORS: dict[str, MakeExecutor] = {
    "in this process": InlineExecutor,
    **{name: functools.partial(RayExecutor, count=count) for name, count in RAY.items()},
}
OUTLIVES_WORKERS = tuple(RAY)
"""Those whose workers are processes of their own."""


@pytest.fixture(scope="module")
def ray_is_up() -> Iterator[None]:
    """One Ray for the module, which the executors use, and leave."""
    import ray

    start_or_join(None, cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(params=list(EXECUTORS))
def make(request: pytest.FixtureRequest) -> Iterator[MakeExecutor]:
    if request.param in RAY:
        request.getfixturevalue("ray_is_up")
    made: list[Executor] = []

    def make(make_worker: MakeWorker) -> Executor:
        made.append(EXECUTORS[request.param](make_worker))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


outlives_workers = pytest.mark.parametrize("make", OUTLIVES_WORKERS, indirect=True)


def test_each_job_has_one_outcome_and_it_is_the_workers_own(make: MakeExecutor) -> None:
    jobs = [job(f"score:{i}", weight=i / 7) for i in range(9)]
    alone = {each.key: ObedientWorker().run(each) for each in jobs}
    outcomes = list(make(ObedientWorker).map(deque(jobs)))
    assert Counter(o.key for o in outcomes) == Counter(alone.keys())
    assert {o.key: o for o in outcomes} == alone


def test_the_order_of_the_jobs_changes_no_outcome(make: MakeExecutor) -> None:
    jobs = [job(f"score:{i}", weight=i / 7) for i in range(6)]
    jobs += [job(f"fail:{kind.value}") for kind in FailureKind]
    executor = make(ObedientWorker)
    expected = by_key(executor, *jobs)
    for seed in range(3):
        assert by_key(executor, *random.Random(seed).sample(jobs, len(jobs))) == expected


def test_a_failure_is_an_outcome_and_costs_the_other_jobs_nothing(make: MakeExecutor) -> None:
    outcomes = by_key(make(ObedientWorker), job("fail:out_of_memory"), job("score:1"), job("fail:timeout"))
    assert outcomes["fail:out_of_memory"].failure == Failure(FailureKind.OUT_OF_MEMORY, "as asked")
    assert outcomes["fail:timeout"].failure == Failure(FailureKind.TIMEOUT, "as asked")
    assert outcomes["score:1"].failure is None
    assert outcomes["score:1"].scores is not None


def test_jobs_that_are_added_between_two_outcomes_are_run_as_well(make: MakeExecutor) -> None:
    queue, seen = deque([job("score:1"), job("score:2")]), list[str]()
    for outcome in make(ObedientWorker).map(queue):
        seen.append(outcome.key)
        if len(outcome.key) < len("score:1++"):
            queue.append(job(f"{outcome.key}+"))
    assert sorted(seen) == sorted(f"score:{n}{more}" for n in "12" for more in ("", "+", "++"))
    assert not queue


def test_without_jobs_no_worker_is_built(make: MakeExecutor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert list(make(functools.partial(ClosingWorker, log)).map(deque())) == []
    assert not log.exists()


def test_a_mistake_of_the_users_comes_out_as_the_worker_raised_it(make: MakeExecutor) -> None:
    executor = make(ObedientWorker)
    with pytest.raises(RecipeError) as caught:
        by_key(executor, job("user_error"))
    assert type(caught.value) is RecipeError
    assert caught.value.args == ("recipe.yml: models", "too few", "Add one.")
    assert by_key(executor, job("score:1"))["score:1"].failure is None


def test_a_mistake_that_shows_in_building_a_worker_comes_out_too(make: MakeExecutor) -> None:
    with pytest.raises(CheckpointError, match=r"^models.a: no such folder$"):
        by_key(make(make_no_worker), job("score:1"))


def test_a_bug_keeps_its_type(make: MakeExecutor) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        by_key(make(ObedientWorker), job("bug"))
    assert type(caught.value) is ZeroDivisionError


def test_leaving_early_abandons_the_rest_and_the_executor_still_works(make: MakeExecutor) -> None:
    executor, queue = make(ObedientWorker), deque([job("score:1"), job("sleep:3600"), job("score:2")])
    outcomes = executor.map(queue)
    assert next(outcomes).key == "score:1"
    outcomes.close()  # type: ignore[attr-defined]
    assert set(by_key(executor, job("score:3"), job("score:4"))) == {"score:3", "score:4"}


def test_workers_stay_from_one_map_to_the_next_and_are_told_when_they_may_go(
    make: MakeExecutor, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    executor = make(functools.partial(ClosingWorker, log))
    pids = {by_key(executor, job("pid"))["pid"].fingerprint for _ in range(6)}
    workers = getattr(executor, "count", 1)
    assert len(pids) <= workers
    executor.close()
    executor.close()
    built = log.read_text().split().count("built")
    assert len(pids) <= built <= workers
    assert log.read_text().split().count("closed") >= len(pids)
    assert by_key(executor, job("score:1"))["score:1"].failure is None  # with another worker
    assert log.read_text().split().count("built") > built


@outlives_workers
def test_a_worker_that_dies_once_costs_an_attempt_and_no_job(make: MakeExecutor, tmp_path: Path) -> None:
    key = f"die_once:{tmp_path / 'died'}"
    outcomes = by_key(make(ObedientWorker), *[job(f"score:{i}") for i in range(3)], job(key, weight=2.0))
    assert (outcomes[key].fingerprint, outcomes[key].attempts) == ("alive", 2)
    assert [(outcomes[f"score:{i}"].failure, outcomes[f"score:{i}"].attempts) for i in range(3)] == [
        (None, 1)
    ] * 3


@outlives_workers
def test_a_job_that_kills_each_worker_fails_and_the_others_finish(make: MakeExecutor) -> None:
    outcomes = by_key(make(ObedientWorker), job("die"), job("score:1"), job("score:2"))
    dead = outcomes.pop("die")
    assert dead.failure is not None
    assert dead.failure.kind is FailureKind.WORKER_DIED
    assert dead.failure.reason == (
        "2 workers died while they ran it; the last one: its worker process has died (SYSTEM_ERROR)"
    )
    assert (dead.scores, dead.fingerprint, dead.attempts) == (None, None, 2)
    assert {key: outcome.failure for key, outcome in outcomes.items()} == {"score:1": None, "score:2": None}


@pytest.mark.slow
def test_real_models_have_the_same_scores_and_failures_everywhere(make: MakeExecutor) -> None:
    """Of a whole split, of some items, and of a recipe whose values do not go together."""
    tasks = {"tasks": ["zoo_add", "zoo_sort"], "include_path": str(ROOT / "fitness" / "zoo")}
    fitness = FitnessSpec.model_validate({**tasks, "splits": {"search": 8, "validation": 4, "test": 4}})
    models = tuple((name, str(ZOO / name)) for name in ("base", "add", "sort"))
    spec = WorkerSpec(models, fitness, ROOT, "cpu", "float32")

    experts = [{"model": name, "parameters": {"weight": 0.6}} for name in ("add", "sort")]
    good = parse_recipe({"merge_method": "task_arithmetic", "base_model": "base", "models": experts})
    layers = [{"model": "add", "layer_range": [0, 99]}]
    bad = parse_recipe({"merge_method": "passthrough", "slices": [{"sources": layers}]})
    alone = spec()
    whole = alone.run(Job("whole", good, ItemSet(Split.SEARCH)))
    assert whole.scores is not None
    some = ItemSet.of(Split.SEARCH, {"zoo_add": [i.item for i in whole.scores.tasks[0].items[2:5]]})
    jobs = (Job("whole", good, ItemSet(Split.SEARCH)), Job("bad", bad, some), Job("some", good, some))
    expected = {each.key: alone.run(each) for each in jobs}
    alone.close()
    assert expected["bad"].failure is not None
    assert expected["bad"].failure.kind is FailureKind.INVALID_RECIPE

    outcomes = by_key(make(spec), *jobs)
    for key, outcome in outcomes.items():
        want = expected[key]
        assert (outcome.scores, outcome.failure, outcome.fingerprint) == (
            want.scores,
            want.failure,
            want.fingerprint,
        )
    assert outcomes.keys() == expected.keys()
    found = outcomes["some"].scores
    assert found is not None
    assert found.tasks[0].items == whole.scores.tasks[0].items[2:5]
    assert found.tasks[1] == whole.scores.tasks[1]
