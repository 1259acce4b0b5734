"""Progress of a search, on a terminal (live) or in a log (a line per generation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from evomerge.cli._console import console, number, say
from evomerge.fitness.objectives import Fitness
from evomerge.fitness.scores import Split
from evomerge.report.tables import search_text
from evomerge.runs.experiment import Experiment
from evomerge.search import progress as search_progress
from evomerge.search.observers import Observer
from evomerge.study.study import SplitResult, Study, Trial

__all__ = ["LiveProgress"]

_PHASES = {
    "baselines": "Scoring the baselines",
    "search": "Searching",
    "metrics": "Scoring baselines and best candidates by their metrics",
    "validation": "Validating the best candidates",
    "test": "Testing baselines and winner",
}


class LiveProgress(Observer):
    """An observer that shows the search while it runs; ``quiet`` shows nothing.

    ``on_search`` is called once the search begins.
    """

    def __init__(
        self, experiment: Experiment, *, quiet: bool, on_search: Callable[[], None] = lambda: None
    ) -> None:
        self._experiment = experiment
        self._fitness = Fitness.of(experiment.fitness)
        self._quiet = quiet
        self._on_search = on_search
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )

    def __enter__(self) -> Self:
        if not self._quiet and console.is_terminal:
            self._live = Live(console=console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_start(self, study: Study) -> None:
        """Print what is searched, and where it is stored."""
        self._on_search()
        if self._quiet:
            return
        experiment = self._experiment
        total = experiment.spec.search.trials
        if study.resumed:
            done = len(study.candidates())
            how = f"Resuming study {study.name!r}: {done} of {total} candidates are done"
        else:
            how = f"New study {study.name!r}: {total} candidates"
        say(f"{how}, {len(experiment.space.dimensions)} dimensions.")
        say(search_text(experiment.spec.search, experiment.space.dimensions))
        console.print(f"Storage: {study.url}")

    def on_phase(self, progress: search_progress.Progress) -> None:
        """Print a line for each phase that has something left to do."""
        if progress.done < progress.total:
            self._line(f"{_PHASES[progress.phase.value]}: {progress.total - progress.done} to go")
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(
            _PHASES[progress.phase.value], total=progress.total, completed=progress.done, rate=""
        )
        self._draw(progress)

    def on_trial(self, trial: Trial, progress: search_progress.Progress) -> None:
        """Print a line for a baseline or a failure, and update the live view."""
        if trial.failure is not None:
            self._line(f"  {trial.name} failed: {trial.failure.kind.value}: {trial.failure.reason}")
        elif trial.kind == "baseline":
            self._line(f"  {trial.name:12} {number(trial.score)}  {_tasks(trial)}")
        self._draw(progress)

    def on_generation(self, trials: Sequence[Trial], progress: search_progress.Progress) -> None:
        """One line."""
        scored = [t.score for t in trials if t.score is not None]
        mean = sum(scored) / len(scored) if scored else None
        best, baseline = progress.best, progress.best_baseline
        rate = "-" if progress.rate is None else f"{progress.rate:.2f}/s"
        left = "-" if progress.remaining is None else _duration(progress.remaining)
        self._line(
            f"  generation {progress.generation}: {progress.done}/{progress.total} candidates, "
            f"mean {number(mean)}, best {number(best.score if best else None)} "
            f"(best baseline {number(baseline.score if baseline else None)}), {rate}, {left} left"
        )
        self._draw(progress)

    def on_split(
        self, trial: Trial, split: Split, result: SplitResult, progress: search_progress.Progress
    ) -> None:
        """One line."""
        if result.scores is None:
            reason = result.failure.reason if result.failure else "no scores"
            self._line(f"  {trial.name:12} failed on {split.value} items: {reason}")
        else:
            self._line(f"  {trial.name:12} {split.value} {number(self._fitness.score(result.scores))}")
        self._draw(progress)

    def _line(self, text: str) -> None:
        if not self._quiet:
            say(text)

    def _draw(self, progress: search_progress.Progress) -> None:
        if self._live is None:
            return
        rate = "" if progress.rate is None else f"{progress.rate:.2f} per second"
        for task in self._bar.task_ids:
            self._bar.update(task, completed=progress.done, total=progress.total, rate=rate)
        best = (("best", progress.best), ("best baseline", progress.best_baseline))
        lines = [_best_line(title, trial) for title, trial in best if trial is not None]
        self._live.update(Group(self._bar, *lines))


def _best_line(title: str, trial: Trial) -> Text:
    text = f"  {title:14} {number(trial.score)}  {trial.name}: {_tasks(trial)}"
    return Text(text, overflow="ellipsis", no_wrap=True)


def _tasks(trial: Trial) -> str:
    if trial.scores is None:
        return ""
    return ", ".join(f"{t.task} {number(t.value)}" for t in trial.scores.tasks)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
