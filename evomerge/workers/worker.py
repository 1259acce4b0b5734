"""One worker: one resident model, built tasks. Merging and scoring meet only here."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CandidateError, FailureKind, FitnessError, RecipeError
from evomerge.fitness.deadline import Deadline
from evomerge.fitness.spec import FitnessSpec
from evomerge.workers.jobs import Failure, Job, ModelDigest, Outcome, Seconds

if TYPE_CHECKING:
    from evomerge.backends.resident import ModelSettings, ResidentModel
    from evomerge.fitness.evaluator import Evaluator

__all__ = ["Worker", "WorkerSpec"]


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker needs to know; picklable, some kilobytes.

    ``models`` are the models of every job to come: the names that recipes use, and the references they stand
    for. ``folder`` is where relative paths start. ``dtype`` is what the live model calculates in (``None`` =
    the dtype of the merge). A job that is not done after ``timeout_s`` seconds ends at its next forward pass.
    ``as_drawn``: see ``Evaluator``. ``scored``: a digest of each task as the study knows it; a worker that
    finds another one (the files of another node, say) refuses. ``engine`` names the backend that runs the
    live model, with ``engine_args`` and ``quantization``: see ``ModelSettings``.
    """

    models: tuple[tuple[str, str], ...]
    fitness: FitnessSpec
    folder: Path
    device: str = "auto"
    dtype: str | None = None
    threads: int = 1
    timeout_s: float | None = None
    as_drawn: bool = False
    scored: Mapping[str, str] | None = None
    engine: str = "transformers"
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    quantization: str | None = None

    @property
    def model_settings(self) -> ModelSettings:
        """The part of it that its backend needs."""
        from evomerge.backends.resident import ModelSettings

        return ModelSettings(
            self.models,
            self.folder,
            self.device,
            self.dtype,
            self.threads,
            self.engine_args,
            self.quantization,
        )

    def __call__(self) -> Worker:
        """A worker with its models and tasks loaded: the spec is its own factory.

        Raises:
            UserError: A model, a task or the device is wrong.
        """
        worker = Worker(self)
        worker.load()
        return worker


class Worker:
    """Runs jobs one after the other. Models and tasks are loaded at the first one."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self._parts: tuple[ResidentModel, Evaluator] | None = None

    def run(self, job: Job) -> Outcome:
        """Makes the job's model and scores it.

        Raises:
            UserError: A model, the fitness or the installation is wrong: no job could run.
        """
        import torch

        model, evaluator = self.load()
        deadline = None if self.spec.timeout_s is None else Deadline.after(self.spec.timeout_s)
        start = time.perf_counter()
        made = fingerprint = config = None
        try:
            fingerprint = model.load(job.recipe)
            config = model.config_digest
            made = time.perf_counter()
            if config is not None and ModelDigest(fingerprint, config) in job.known:
                seconds = _seconds(start, made)
                return Outcome(job.key, None, None, fingerprint, seconds, config=config, is_known=True)
            torch.set_num_threads(
                self.spec.threads
            )  # here: the threads that merge set their own, for MKL too
            scores = evaluator.score(model, job.items, job.measure, deadline)
            return Outcome(job.key, scores, None, fingerprint, _seconds(start, made), config=config)
        except RecipeError as exception:  # the values of this candidate do not go together
            failure = Failure(FailureKind.INVALID_RECIPE, str(exception))
        except CandidateError as exception:
            failure = Failure(exception.kind, exception.reason)
        return Outcome(job.key, None, failure, fingerprint, _seconds(start, made), config=config)

    def close(self) -> None:
        """Frees the models."""
        if self._parts is not None:
            model, evaluator = self._parts
            self._parts = None
            evaluator.close()
            model.close()

    def load(self) -> tuple[ResidentModel, Evaluator]:
        """Opens the models and builds the tasks, once; ``run`` does it where it has not been done."""
        if self._parts is None:
            from evomerge.backends.registry import resident_model
            from evomerge.fitness.evaluator import Evaluator

            spec = self.spec
            model = resident_model(spec.engine, spec.model_settings)
            evaluator = Evaluator(spec.fitness, spec.folder, as_drawn=spec.as_drawn)
            evaluator.describe()  # builds the tasks, outside any time limit
            self._refuse_other_tasks(evaluator)
            self._parts = model, evaluator
        return self._parts

    def _refuse_other_tasks(self, evaluator: Evaluator) -> None:
        if self.spec.scored is None:
            return
        found = evaluator.digest().by_task()
        other = [task for task in self.spec.scored if found.get(task) != self.spec.scored[task]]
        if other:
            raise FitnessError(
                "fitness.tasks",
                f"on {platform.node()} a worker finds other items, prompts or settings than the study has, "
                f"in {', '.join(other)}",
                "Bring the data and definitions of these tasks on that machine to the same state.",
            )


def _seconds(start: float, made: float | None) -> Seconds:
    now = time.perf_counter()
    return Seconds((made or now) - start, now - made if made is not None else 0.0)
