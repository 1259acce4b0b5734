"""A Ray cluster of two nodes on this machine, one of which dies in mid-generation (``docs/cluster.md``)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT, environment
from search_fakes import FakeExecutor, FakeWorker, make_plan, weights_of

from evomerge.errors import FailureKind
from evomerge.recipe import Recipe
from evomerge.search.controller import search
from evomerge.search.observers import Observer
from evomerge.search.progress import Progress
from evomerge.study.study import Study, Trial
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.ray_executor import RayExecutor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="starts several Ray nodes on one machine"),
]

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
PLAN = make_plan(trials=40, population=8)


class NotingWorker(FakeWorker):
    """Leaves a line ``node split job`` in ``folder/notes`` before each job.

    On the node that ``folder/doomed`` names no job comes to its end any more.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(seconds=0.3)
        self._folder = folder

    def run(self, job: Job) -> Outcome:
        import ray

        node = ray.get_runtime_context().get_node_id()
        with (self._folder / "notes").open("a") as file:
            file.write(f"{node} {job.items.split} {job.key}\n")
        outcome = super().run(job)
        doomed = self._folder / "doomed"
        if doomed.exists() and doomed.read_text() == node:
            time.sleep(3600)
        return outcome


class AfterTrials(Observer):
    """Calls ``actions[n]`` when ``n`` trials are recorded."""

    def __init__(self, actions: Mapping[int, Callable[[], object]]) -> None:
        self._count = 0
        self._actions = actions

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        self._count += 1
        self._actions.get(self._count, lambda: None)()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster whose head has room for one worker."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def opened(url: str) -> Study:
    return Study.open(url, "cluster", document={}, dimensions=PLAN.space.dimensions)


def test_a_node_that_dies_in_mid_generation_costs_one_retry_and_another_node_takes_its_place(
    cluster: Any, tmp_path: Path
) -> None:
    reference = opened(f"journal:///{tmp_path}/reference.log")
    search(PLAN, reference, FakeExecutor())
    study = opened(f"journal:///{tmp_path}/study.log")
    doomed = cluster.add_node(**NODE)

    def kill() -> None:
        (tmp_path / "doomed").write_text(doomed.node_id)
        cluster.remove_node(doomed, allow_graceful=False)

    actions = {9: kill, 14: lambda: cluster.add_node(**NODE)}
    executor = RayExecutor(partial(NotingWorker, tmp_path), 2, address=cluster.address)
    with closing(executor):
        search(PLAN, study, executor, [AfterTrials(actions)])

    started = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    on_nodes = Counter(node for node, *_ in started)
    times = Counter((split, key) for _, split, key in started)
    assert len(on_nodes) == 3
    assert on_nodes[doomed.node_id] >= 3
    (twice,) = [job for job, n in times.items() if n > 1]
    assert next(node for node, *job in started if tuple(job) == twice) == doomed.node_id
    assert [t.attempts for t in study.trials() if t.name == twice[1]] == [2]
    assert study.snapshot() == reference.snapshot()


def poisoned(recipe: Recipe) -> bool:
    return len(recipe.models or ()) == 2 and 0.95 < weights_of(recipe)[0] < 0.99


class PoisonedWorker(FakeWorker):
    """Dies of one candidate of the first generation."""

    def __init__(self) -> None:
        super().__init__(seconds=0.0)

    def run(self, job: Job) -> Outcome:
        if poisoned(job.recipe):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(job)


def test_a_candidate_that_kills_its_workers_has_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    plan = make_plan(trials=12, population=6)
    reference = opened(f"journal:///{tmp_path}/reference.log")
    search(plan, reference, FakeExecutor(fails=poisoned))
    study = opened(f"journal:///{tmp_path}/study.log")
    with closing(RayExecutor(PoisonedWorker, 2)) as executor:
        search(plan, study, executor)
    failed = [t for t in study.trials() if t.failure is not None]
    assert [t.generation for t in failed] == [0]
    assert {(t.failure.kind, t.attempts) for t in failed if t.failure} == {(FailureKind.WORKER_DIED, 2)}
    assert all("2 workers died while they ran it" in t.failure.reason for t in failed if t.failure)

    def told(study: Study) -> list[tuple[str, tuple[float, ...], float | None]]:
        return sorted((t.name, t.vector, t.score) for t in study.trials())

    assert told(study) == told(reference)  # whatever the failure, the sampler is told the same


@pytest.mark.postgres
def test_the_command_on_a_cluster_with_postgresql_finds_what_one_process_with_sqlite_finds(
    cluster: Any, postgres_server: Any, tmp_path: Path
) -> None:
    """The walk of ``docs/cluster.md``, and a node dies on the way."""
    experiment = {**EXPERIMENT, "name": "cluster", "search": {**EXPERIMENT["search"], "trials": 16}}
    write(tmp_path / "laptop.yml", experiment)
    doomed = cluster.add_node(**NODE)
    database = postgres_server.new_database()
    workers = {"backend": "ray", "count": 2, "address": cluster.address, "dtype": "float32"}
    write(tmp_path / "cluster.yml", {**experiment, "workers": workers, "storage": database})

    run(tmp_path, "search", "laptop.yml", "--out", "laptop")
    with command(tmp_path, "search", "cluster.yml") as process:
        wait_for_trials(database, 7, process)
        cluster.remove_node(doomed, allow_graceful=False)
        assert process.wait(120) == 0, (tmp_path / "log").read_text()

    with (
        Study.open(database, "cluster") as study,
        Study.open(f"sqlite:///{tmp_path}/laptop/study.db", "cluster") as reference,
    ):
        assert study.digest() == reference.digest()
    run(tmp_path, "status", "cluster", "--storage", database)
    run(tmp_path, "export", "cluster", "-o", "best.yml", "--storage", database)
    assert "evomerge-fingerprint" in (tmp_path / "best.yml").read_text()


def write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(document), sort_keys=False))


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``evomerge`` in ``folder``, which writes to ``folder/log``."""
    words = [sys.executable, "-m", "evomerge.cli.main", *arguments]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=log, stderr=log, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def run(folder: Path, *arguments: str) -> None:
    with command(folder, *arguments) as process:
        assert process.wait(120) == 0, (folder / "log").read_text()


def wait_for_trials(database: str, count: int, process: subprocess.Popen[str]) -> None:
    import psycopg

    until = time.monotonic() + 120
    found = 0
    while found < count:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
        with psycopg.connect(database.replace("+psycopg", "")) as connection:
            try:
                (found,) = connection.execute("SELECT count(*) FROM trials").fetchone() or (0,)
            except psycopg.errors.UndefinedTable:
                continue
