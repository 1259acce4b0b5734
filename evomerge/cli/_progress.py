"""How a search goes, on a terminal (live) or in a log (a line a generation)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evomerge.cli._console import console, number, say

if TYPE_CHECKING:
    from evomerge.fitness.objectives import Fitness
    from evomerge.fitness.scores import Split
    from evomerge.search.progress import Progress
    from evomerge.study.study import SplitResult, Study, Trial

__all__ = ["LiveProgress"]

_PHASES = {
    "baselines": "Scoring the baselines",
    "search": "Searching",
    "validation": "Validating the best candidates",
    "test": "Testing baselines and winner",
}


class LiveProgress:
    """An observer that shows the search while it runs."""

    def __init__(self, study: Study, fitness: Fitness, trials: int, *, quiet: bool) -> None:
        self._study = study
        self._fitness = fitness
        self._trials = trials
        self._quiet = quiet
        self._failures = 0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Starts to draw, where there is a terminal."""
        if not self._quiet and console.is_terminal:
            self._live = Live(console=console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops drawing."""
        if self._live is not None:
            self._live.stop()

    def on_resume(self, study: Study) -> None:
        """Nothing: the command says so itself."""

    def on_phase(self, progress: Progress) -> None:
        """A line for each phase that has something left to do."""
        if progress.done < progress.total:
            self._line(f"{_PHASES[progress.phase.value]}: {progress.total - progress.done} to go")
        self._draw(progress)

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        """Baselines and failures get a line, everything moves the live view."""
        if trial.failure is not None:
            self._line(f"  {trial.name} failed: {trial.failure.kind.value}: {trial.failure.reason}")
        elif trial.kind == "baseline":
            self._line(f"  {trial.name:12} {number(trial.score)}  {_tasks(trial)}")
        self._draw(progress)

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
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

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
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

    def _draw(self, progress: Progress) -> None:
        if self._live is None:
            return
        table = Table.grid(padding=(0, 2))
        filled = int(30 * progress.done / progress.total) if progress.total else 30
        bar = Text.assemble("━" * filled, ("━" * (30 - filled), "dim"))
        rate = "" if progress.rate is None else f"{progress.rate:.2f} a second"
        left = "" if progress.remaining is None else f"{_duration(progress.remaining)} left"
        where = f"generation {progress.generation}" if progress.generation >= 0 else ""
        phase = Text(_PHASES[progress.phase.value], style="bold")
        table.add_row(phase, bar, f"{progress.done}/{progress.total}", where, rate, left)
        lines = [
            Text(
                f"  {title:14} {number(trial.score)}  {trial.name}: {_tasks(trial)}",
                overflow="ellipsis",
                no_wrap=True,
            )
            for title, trial in (("best", progress.best), ("best baseline", progress.best_baseline))
            if trial is not None
        ]
        self._live.update(Group(table, *lines))


def _tasks(trial: Trial) -> str:
    if trial.scores is None:
        return ""
    return ", ".join(f"{t.task} {number(t.value)}" for t in trial.scores.tasks)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
