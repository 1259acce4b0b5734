"""Workers without models that do what the key of a job says, for executors of every kind."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from pathlib import Path

from evomerge.errors import CheckpointError, FailureKind, RecipeError
from evomerge.fitness.items import ItemSet
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import Recipe, Source
from evomerge.workers.executor import Executor
from evomerge.workers.jobs import Failure, Job, Outcome, Seconds


class ObedientWorker:
    """Does what the key of a job says: ``what[:argument]``."""

    def run(self, job: Job) -> Outcome:
        what, _, argument = job.key.partition(":")
        if what == "fail":
            return Outcome(job.key, None, Failure(FailureKind(argument), "as asked"), None, Seconds())
        note = getattr(self, what)(argument)
        weight = job.recipe.parameters.get("weight", 0.0)
        item, higher = ItemScore("item", weight**0.5), True
        scores = Scores(job.items.split, (TaskScore("task", "acc", weight / 3, higher, "mean", (item,)),))
        return Outcome(job.key, scores, None, note, Seconds())

    def score(self, argument: str) -> str:
        return f"weights {argument}"

    def pid(self, _: str) -> str:
        return str(os.getpid())

    def environment(self, name: str) -> str:
        return os.environ.get(name, "")

    def sleep(self, seconds: str) -> str:
        time.sleep(float(seconds))
        return ""

    def die(self, _: str) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    def die_once(self, marker: str) -> str:
        if not Path(marker).exists():
            Path(marker).touch()
            self.die("")
        return "alive"

    def user_error(self, _: str) -> str:
        raise RecipeError("recipe.yml: models", "too few", "Add one.")

    def bug(self, _: str) -> str:
        return str(1 / 0)


class ClosingWorker(ObedientWorker):
    """Adds a line to a file when it is built, and when it is closed."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.note("built")

    def close(self) -> None:
        self.note("closed")

    def note(self, line: str) -> str:
        with self.log.open("a") as file:
            file.write(f"{line}\n")
        return ""


def make_no_worker() -> ObedientWorker:
    raise CheckpointError("models.a", "no such folder")


def make_dead_worker() -> ObedientWorker:
    os.kill(os.getpid(), signal.SIGKILL)
    return ObedientWorker()


def job(key: str, weight: float = 0.0) -> Job:
    recipe = Recipe(merge_method="linear", models=(Source(model="a"),), parameters={"weight": weight})
    return Job(key, recipe, ItemSet(Split.SEARCH))


def by_key(executor: Executor, *jobs: Job) -> dict[str, Outcome]:
    return {outcome.key: outcome for outcome in executor.map(deque(jobs))}
