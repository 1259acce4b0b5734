"""Which trials are better than others: who is validated, who wins."""

from __future__ import annotations

import math
from typing import Protocol

from evomerge.errors import FitnessError
from evomerge.fitness.scores import Scores, Split
from evomerge.study.study import Study, Trial

__all__ = ["Objective", "finalists", "fitness_of", "winner"]


class Objective(Protocol):
    """Scores of tasks to one number, higher is better (``fitness.objectives.Fitness``)."""

    def score(self, scores: Scores) -> float:
        """The number."""
        ...


def fitness_of(scores: Scores | None, objective: Objective) -> float | None:
    """The fitness, or ``None`` where there are no scores or their fitness is not finite."""
    try:
        fitness = math.nan if scores is None else objective.score(scores)
    except FitnessError:  # the logarithm of a metric that is 0, for example
        return None
    return fitness if math.isfinite(fitness) else None


def finalists(study: Study, top_k: int) -> tuple[Trial, ...]:
    """The best candidates by search score, best first, of equals the earlier; no recipe twice."""
    scored = [t for t in study.candidates() if t.score is not None]
    ranked = sorted(scored, key=lambda t: -(t.score or 0.0))  # stable: the earlier of equals stays ahead
    distinct: dict[str, Trial] = {}
    for trial in ranked:
        distinct.setdefault(trial.recipe, trial)
    return tuple(distinct.values())[:top_k]


def winner(study: Study, objective: Objective, top_k: int) -> Trial | None:
    """The finalist with the best validation score, of equals the better in search; ``None`` without any."""
    results = study.split_scores(Split.VALIDATION)
    best: tuple[float, Trial] | None = None
    for trial in finalists(study, top_k):
        score = fitness_of(results.get(trial.number), objective)
        if score is not None and (best is None or score > best[0]):
            best = score, trial
    return None if best is None else best[1]
