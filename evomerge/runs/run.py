"""One experiment from its check to the exported winner: the public Python API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoints.checkpoint import DTYPES, dtype_name
from evomerge.engine.device import resolve_device
from evomerge.engine.memory import MemoryPlan, memory_plan
from evomerge.errors import OutputError
from evomerge.fitness import TaskInfo
from evomerge.fitness.objectives import Fitness
from evomerge.recipe import Dimension
from evomerge.runs.executors import make_executor
from evomerge.runs.experiment import FREE_FIELDS, Experiment, read_document
from evomerge.runs.exporting import Exported, choose_trial, export_trial
from evomerge.runs.opened_study import OpenedStudy
from evomerge.runs.preflight import Preflight, preflight
from evomerge.runs.run_folder import write_run_file
from evomerge.runs.warm_starting import find_warm_start
from evomerge.search.agreement import Agreement, agreement
from evomerge.search.controller import Ending, SearchPlan, search
from evomerge.search.leaderboard import Row, leaderboard
from evomerge.search.observers import Observer, make_observers
from evomerge.search.verdict import Verdict, verdict
from evomerge.study.study import Study, Trial
from evomerge.study.warm_start import WarmStart

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Check", "Found", "Run"]


@dataclass(frozen=True)
class Check:
    """What a search of the experiment would do. ``warnings`` are sentences for the user."""

    dimensions: tuple[Dimension, ...]
    tasks: tuple[TaskInfo, ...]
    baselines: tuple[str, ...]
    tensors: int
    """Tensors of a merged model."""
    bytes: int
    """Their size, in the dtype of the merge."""
    memory: MemoryPlan
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The result of a search. ``winner`` is the best finalist on validation items, once there is one.

    ``leaderboard`` holds baselines, then finalists, the winner first; ``verdict`` says what
    the test items show, once the winner was scored on them; ``agreement`` is that of the search's measure
    with the metrics, where it is another one; ``candidates`` counts all runs of the
    study, ``evaluated`` the jobs of this one (baselines, validation and test included).
    """

    ending: Ending
    winner: Trial | None
    leaderboard: tuple[Row, ...]
    verdict: Verdict | None
    agreement: Agreement | None
    candidates: int
    evaluated: int


class Run:
    """An experiment in its folder.

    >>> run = Run(Experiment.load("experiment.yml"))
    >>> run.check().warnings
    >>> found = run.search()
    >>> run.export(Path("best.yml"))

    A run may be searched by one process at a time, and read by any number.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._preflight: Preflight | None = None
        self._warm: WarmStart | None = None

    def check(self) -> Check:
        """Look at all that a search can know before its first candidate; loads no weights, writes nothing.

        Raises:
            UserError: The experiment cannot be searched.
        """
        experiment = self.experiment
        checked = preflight(experiment, dry=True)
        warm = find_warm_start(experiment, checked)
        workers = experiment.spec.workers
        size = {dtype_name(d): d.itemsize for d in DTYPES.values()}.get(workers.dtype or "")
        return Check(
            dimensions=tuple(experiment.space.dimensions),
            tasks=checked.tasks,
            baselines=tuple(b.name for b in experiment.baselines()),
            tensors=len(checked.plan.tensors),
            bytes=checked.plan.bytes,
            memory=memory_plan(checked.checkpoints, checked.plan, resolve_device(workers.device), size),
            warnings=(*checked.warnings, *(() if warm is None else warm.notes)),
        )

    def prepare(self) -> tuple[str, ...]:
        """Check what ``search`` needs, once; returns the warnings. ``search`` calls it if it was not called.

        Raises:
            UserError: The experiment cannot be searched.
        """
        if self._preflight is None:
            self._preflight = preflight(self.experiment)
            self._warm = find_warm_start(self.experiment, self._preflight)
        return (*self._preflight.warnings, *(() if self._warm is None else self._warm.notes))

    def search(
        self, *, observers: Sequence[Observer] = (), should_stop: Callable[[], bool] = lambda: False
    ) -> Found:
        """Search until the budget is spent; continues an earlier run of the same study.

        ``should_stop`` is asked between two results. Whatever ends the call, finished trials are kept.

        Raises:
            UserError: The experiment cannot be searched, or not any longer (``search.controller.search``).
        """
        experiment = self.experiment
        fitness = Fitness.of(experiment.fitness)
        with self._writable_study() as study:
            warm = study.warm_start
            plan = SearchPlan(
                space=experiment.space,
                sampler=experiment.sampler(() if warm is None else warm.vectors),
                objective=fitness,
                baselines=experiment.baselines(),
                trials=experiment.spec.search.trials,
                top_k=experiment.spec.search.top_k,
                lag=experiment.spec.search.lag,
                measure=experiment.fitness.search_measure,
            )
            executor = make_executor(self._prepared.experiment, self._prepared.scored)
            try:
                watching = (*observers, *make_observers(experiment.spec.observers, experiment.folder))
                result = search(plan, study, executor, watching, should_stop)
            finally:
                executor.close()
            rows = leaderboard(study, fitness, plan.top_k)
            shown = verdict(study, fitness, plan.baselines, plan.top_k)
        ranks = agreement(study, fitness)
        return Found(result.ending, result.winner, rows, shown, ranks, result.candidates, result.evaluated)

    def study(self) -> OpenedStudy:
        """The study as it is now, to be read and closed (a context manager).

        Raises:
            StudyError: There is none yet.
        """
        return OpenedStudy.of(Study.open(self.experiment.storage, self.experiment.name))

    def export(self, path: Path | None = None, *, trial: int | None = None) -> Exported:
        """The recipe of the winner, or of ``trial``, written to ``path`` if given.

        Before the finalists are validated, the best so far (``exporting.choose_trial``).

        Raises:
            StudyError: No candidate has a score, or there is no such trial.
            OutputError: ``path`` holds something that no export wrote.
        """
        with self.study() as opened:
            chosen = choose_trial(opened)[0] if trial is None else opened.study.trial(trial)
            return export_trial(opened, chosen, path)

    @property
    def _prepared(self) -> Preflight:
        self.prepare()
        assert self._preflight is not None  # noqa: S101 (prepare sets it)
        return self._preflight

    @contextmanager
    def _writable_study(self) -> Iterator[Study]:
        experiment, checked = self.experiment, self._prepared
        try:
            experiment.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exception:
            raise OutputError(
                str(experiment.folder), f"the run's folder cannot be written ({exception.strerror})"
            ) from None
        with Study.open(
            experiment.storage,
            experiment.name,
            document=checked.experiment.document(checked.sources),
            dimensions=experiment.space.dimensions,
            free=FREE_FIELDS,
            scored=checked.scored,
            read=read_document,
        ) as study:
            if self._warm is not None and not study.trials():
                study.begin_from(self._warm)
            # Only now: a run.json that is there may name another study.
            write_run_file(experiment.folder, experiment)
            yield study
