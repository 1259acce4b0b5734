"""The table at the end of a search: baselines, finalists, the winner, on all three splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from evomerge.fitness.items import Measure
from evomerge.fitness.scores import Scores, Split
from evomerge.search.ranking import finalists, fitness_of, winner
from evomerge.study.study import Study, Trial

__all__ = ["Judge", "Row", "TaskResult", "leaderboard"]


class Judge(Protocol):
    """What a leaderboard needs of ``fitness.objectives.Fitness``."""

    def score(self, scores: Scores) -> float:
        """The weighted mean of the tasks, higher is better."""
        ...

    def interval(self, scores: Scores, confidence: float = 0.95) -> tuple[float, float]:
        """A confidence interval of that score over the items."""
        ...


@dataclass(frozen=True)
class TaskResult:
    """One task's metric, in its own unit, on each split where it was measured."""

    task: str
    metric: str
    higher_is_better: bool
    search: float | None
    validation: float | None
    test: float | None


@dataclass(frozen=True)
class Row:
    """One model. Scores are fitness, higher is better; ``low`` and ``high`` bound the test score."""

    trial: Trial
    winner: bool
    search: float | None
    validation: float | None
    test: float | None
    low: float | None
    high: float | None
    tasks: tuple[TaskResult, ...]
    search_metric: float | None = None
    """The fitness by the tasks' own metrics on search items, where ``search`` is by another measure."""

    @property
    def measure(self) -> str:
        """What ``search`` is measured by."""
        return self.trial.basis.measure

    @property
    def name(self) -> str:
        """The name of the trial."""
        return self.trial.name


def leaderboard(study: Study, judge: Judge, top_k: int = 5, confidence: float = 0.95) -> tuple[Row, ...]:
    """Baselines in their order, then the finalists by validation score, the winner first.

    Finalists without a validation score stand last, by search score. ``confidence`` is that of the
    interval around the test score.
    """
    best = winner(study, judge, top_k)
    splits = {split: study.split_scores(split) for split in Split}
    by_metric = {n: r.scores for n, r in study.metric_results().items() if r.scores is not None}
    splits[Split.SEARCH] |= by_metric  # values of tasks are then of one kind on all splits
    rows = [
        _row(trial, judge, {split: found.get(trial.number) for split, found in splits.items()}, confidence)
        for trial in (*study.baselines(), *finalists(study, top_k))
    ]
    fixed = [row for row in rows if row.trial.kind == "baseline"]
    searched = [row for row in rows if row.trial.kind == "candidate"]
    searched.sort(key=lambda r: (r.validation is None, -(r.validation or 0.0)))  # stable: then by search
    return tuple(
        replace(row, winner=best is not None and row.trial.place == best.place) for row in (*fixed, *searched)
    )


def _row(trial: Trial, judge: Judge, scores: Mapping[Split, Scores | None], confidence: float) -> Row:
    validation, test = scores[Split.VALIDATION], scores[Split.TEST]
    tested = fitness_of(test, judge)
    low, high = (None, None) if test is None or tested is None else judge.interval(test, confidence)
    return Row(
        trial=trial,
        winner=False,
        search=trial.score,
        validation=fitness_of(validation, judge),
        test=tested,
        low=low,
        high=high,
        tasks=_tasks(scores),
        search_metric=None if trial.basis.measure == "metric" else _by_metric(scores[Split.SEARCH], judge),
    )


def _by_metric(scores: Scores | None, judge: Judge) -> float | None:
    if scores is None or any(task.metric == Measure.ANSWER_LIKELIHOOD for task in scores.tasks):
        return None
    return fitness_of(scores, judge)


def _tasks(scores: Mapping[Split, Scores | None]) -> tuple[TaskResult, ...]:
    values = {s: {t.task: t.value for t in found.tasks} for s, found in scores.items() if found is not None}
    kinds = {t.task: t for found in scores.values() if found is not None for t in found.tasks}

    def value(split: Split, task: str) -> float | None:
        return values.get(split, {}).get(task)

    return tuple(
        TaskResult(
            name,
            kind.metric,
            kind.higher_is_better,
            value(Split.SEARCH, name),
            value(Split.VALIDATION, name),
            value(Split.TEST, name),
        )
        for name, kind in kinds.items()
    )
