"""A study as a pandas data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.fitness.objectives import Fitness
from evomerge.fitness.scores import Scores, Split
from evomerge.search.ranking import fitness_of
from evomerge.study.study import Study, Trial

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["trials_frame"]


def trials_frame(study: Study, fitness: Fitness) -> pd.DataFrame:
    """One row per trial; columns as in ``OpenedStudy.to_dataframe``."""
    import pandas as pd  # most of half a second

    later = {split: study.split_scores(split) for split in (Split.VALIDATION, Split.TEST)}
    by_metric = {n: fitness_of(r.scores, fitness) for n, r in study.metric_results().items()}
    rows = []
    for trial in study.trials():
        row = _row(
            trial, {s.value: fitness_of(found.get(trial.number), fitness) for s, found in later.items()}
        )
        rows.append({**row, **({"search_metric": by_metric.get(trial.number)} if by_metric else {})})
    return pd.DataFrame(rows)


def _row(trial: Trial, later: dict[str, float | None]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "name": trial.name,
        "kind": trial.kind,
        "generation": trial.generation,
        "index": trial.index,
        "search": trial.score,
        **later,
        **_tasks(trial.scores),
        **{f"param/{name}": value for name, value in trial.parameters.items()},
        "failure": None if trial.failure is None else trial.failure.kind.value,
        "cached_from": trial.cached_from,
        "same_weights_as": trial.same_weights_as,
        "materialize_s": trial.seconds.materialize,
        "evaluate_s": trial.seconds.evaluate,
        "fingerprint": trial.fingerprint,
    }


def _tasks(scores: Scores | None) -> dict[str, float]:
    return {} if scores is None else {f"task/{t.task}": t.value for t in scores.tasks}
