"""What a search has shown: whether its winner beats what was there before, on items nothing has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evomerge.errors import FitnessError
from evomerge.fitness.comparison import Comparison, compare
from evomerge.fitness.objectives import Fitness
from evomerge.fitness.scores import Scores, Split
from evomerge.search.baselines import Baseline
from evomerge.search.ranking import fitness_of, winner
from evomerge.study.study import Study, Trial

__all__ = ["Against", "Verdict", "verdict"]


@dataclass(frozen=True)
class Against:
    """The winner against one baseline, on test items."""

    name: str
    comparison: Comparison


@dataclass(frozen=True)
class Verdict:
    """The winner on test items. Decisions saw none of them, so a p-value needs no correction for the search.

    ``parent`` is the parent (base model or fine-tune) with the best test score, ``merge`` the best of the
    merges with default values; ``p_value`` is the largest over all parents, as the winner has to beat each.
    ``overestimate``: search score minus test score of the winner, ``parent_overestimate`` of that parent,
    which was not chosen by its search score: the difference between the items themselves.
    """

    winner: Trial
    test: float
    parent: Against | None
    merge: Against | None
    p_value: float | None
    overestimate: float | None
    parent_overestimate: float | None

    def is_better(self, level: float) -> bool:
        """Whether the winner is better than every parent, at a level of significance."""
        if self.parent is None or self.p_value is None:
            return False
        return self.parent.comparison.difference > 0.0 and self.p_value < level


def verdict(study: Study, fitness: Fitness, baselines: tuple[Baseline, ...], top_k: int) -> Verdict | None:
    """What ``study`` has shown; ``None`` before its winner has been scored on test items."""
    best = winner(study, fitness, top_k)
    scores = study.split_scores(Split.TEST)
    mine = None if best is None else scores.get(best.number)
    test = fitness_of(mine, fitness)
    if best is None or mine is None or test is None:
        return None
    trials = {trial.name: trial for trial in study.baselines()}
    found = {}
    for baseline in baselines:
        trial = trials.get(baseline.name)
        other = None if trial is None else scores.get(trial.number)
        if other is not None and (comparison := _compared(fitness, mine, other)) is not None:
            found[baseline.name] = comparison
    parents = [Against(b.name, found[b.name]) for b in baselines if b.is_parent and b.name in found]
    merges = [Against(b.name, found[b.name]) for b in baselines if not b.is_parent and b.name in found]
    parent = min(parents, key=_lead, default=None)
    return Verdict(
        winner=best,
        test=test,
        parent=parent,
        merge=min(merges, key=_lead, default=None),
        p_value=max((against.comparison.p_value for against in parents), default=None),
        overestimate=_over(best, mine, fitness),
        parent_overestimate=None
        if parent is None
        else _over(trials[parent.name], scores[trials[parent.name].number], fitness),
    )


def _lead(against: Against) -> float:
    return against.comparison.difference


def _compared(fitness: Fitness, mine: Scores, other: Scores) -> Comparison | None:
    """``None`` where the two cannot be compared: other items, or a score without a finite value."""
    try:
        comparison = compare(fitness, mine, other)
    except (ValueError, FitnessError):
        return None
    return comparison if math.isfinite(comparison.difference) else None


def _over(trial: Trial, test: Scores, fitness: Fitness) -> float | None:
    after = fitness_of(test, fitness)
    if trial.score is None or after is None or trial.basis.measure != "metric":
        return None
    return trial.score - after
