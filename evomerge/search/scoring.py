"""Scores candidates: each becomes a trial, evaluated by a worker or answered from an equal recipe."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from evomerge.errors import FailureKind, RecipeError
from evomerge.fitness.items import ItemSet, Measure
from evomerge.fitness.scores import Split
from evomerge.recipe import Recipe, SearchSpace, Values
from evomerge.search.baselines import Baseline
from evomerge.search.ranking import Objective, fitness_of
from evomerge.search.stream import Proposal
from evomerge.study.study import Basis, Study, Trial
from evomerge.workers.executor import Executor
from evomerge.workers.jobs import Failure, Job, ModelDigest, Outcome, Seconds

__all__ = ["Candidate", "Scoring"]


@dataclass(frozen=True)
class Candidate:
    """A trial before it is scored: everything that is known of it by then."""

    trial: Trial
    recipe: Recipe | None
    """``None`` when the values do not give a valid recipe; then the trial holds the failure."""

    @classmethod
    def of_baseline(cls, baseline: Baseline, index: int) -> Candidate:
        """The ``baseline`` with that place among them."""
        recipe = baseline.recipe
        return cls(Trial("baseline", baseline.name, -1, index, _digest(recipe.key())), recipe)

    @classmethod
    def of_proposal(cls, proposal: Proposal, space: SearchSpace) -> Candidate:
        """The point of ``space`` that is proposed."""
        generation, index = proposal.generation, proposal.index
        values = space.decode(proposal.vector)
        trial = Trial("candidate", f"g{generation}.{index}", generation, index, "", proposal.vector, values)
        try:
            recipe = space.fill(values)
        except RecipeError as exception:
            failure = Failure(FailureKind.INVALID_RECIPE, str(exception))
            return cls(replace(trial, recipe=_digest(_text(values)), failure=failure, attempts=0), None)
        return cls(replace(trial, recipe=_digest(recipe.key())), recipe)


class Scoring:
    """Records a trial for each candidate that is added, each recipe evaluated once.

    Of several equal recipes the first added is evaluated; the others wait for it and are answered from it.
    Added in the order of a study, they leave the same study whichever of them finishes first.
    """

    def __init__(
        self,
        study: Study,
        executor: Executor,
        objective: Objective,
        measure: Measure = Measure.METRIC,
    ) -> None:
        self.evaluated = 0
        """Outcomes that came from workers."""
        self._study, self._executor, self._objective = study, executor, objective
        self._measure = measure
        # A trial that was itself answered from another answers none: the first evaluation does.
        self._known = {t.recipe: t for t in reversed(study.trials()) if t.cached_from is None}
        self._known |= {
            d: t for d, t in _read_taken_over(study, objective, measure).items() if d not in self._known
        }
        self._ready: deque[Candidate] = deque()  # to be recorded without an evaluation
        self._queue: deque[Job] = deque()
        self._running: dict[str, Trial] = {}  # by the name of the job
        self._waiting: dict[str, list[Candidate]] = {}  # by recipe, for one that is in the queue or running

    def add(self, candidate: Candidate) -> None:
        """One more, behind those added before."""
        recipe = candidate.trial.recipe
        if candidate.recipe is None or recipe in self._known:
            self._ready.append(candidate)
        elif recipe in self._waiting:
            self._waiting[recipe].append(candidate)
        else:
            self._waiting[recipe] = []
            self._running[candidate.trial.name] = candidate.trial
            known = tuple(self._baselines) if candidate.trial.kind == "candidate" else ()
            items = ItemSet(Split.SEARCH)
            self._queue.append(Job(candidate.trial.name, candidate.recipe, items, self._measure, known))

    def run(self) -> Iterator[Trial]:
        """Each trial as soon as it is recorded, until none is left; more may be added between two."""
        while self._ready or self._queue:
            yield from self._answers()
            for outcome in self._executor.map(self._queue):
                self.evaluated += 1
                trial = self._record(self._judge(self._running.pop(outcome.key), outcome))
                self._ready.extend(self._waiting.pop(trial.recipe))
                yield trial
                yield from self._answers()

    def _answers(self) -> Iterator[Trial]:
        while self._ready:
            trial = self._ready.popleft().trial
            known = self._known.get(trial.recipe)
            yield self._record(trial if known is None else _answer_from(trial, known))

    def _record(self, trial: Trial) -> Trial:
        recorded = self._study.record(trial)
        self._known.setdefault(recorded.recipe, recorded)
        return recorded

    @cached_property
    def _baselines(self) -> dict[ModelDigest, Trial]:
        """The baselines that have scores, by their models; of equal ones the first.

        All of them are recorded before a candidate is added, so it depends on the study alone.
        """
        return {
            ModelDigest(trial.fingerprint, trial.config): trial
            for trial in reversed(self._study.baselines())
            if trial.scores is not None and trial.fingerprint is not None and trial.config is not None
        }

    def _judge(self, trial: Trial, outcome: Outcome) -> Trial:
        """``trial`` with the outcome; a score that is not finite is a failure."""
        made = replace(
            trial,
            fingerprint=outcome.fingerprint,
            config=outcome.config,
            seconds=outcome.seconds,
            attempts=outcome.attempts,
        )
        if outcome.is_known and outcome.model is not None:
            same = self._baselines[outcome.model]
            return replace(
                made, values=same.values, basis=same.basis, scores=same.scores, same_weights_as=same.name
            )
        score = fitness_of(outcome.scores, self._objective)
        failed = score is None
        return replace(
            made,
            values=() if score is None else (score,),
            scores=None if failed else outcome.scores,
            basis=Basis() if failed else Basis.of(outcome.scores, self._measure.value),
            failure=_failure(outcome) if failed else None,
        )


def _read_taken_over(study: Study, objective: Objective, measure: Measure) -> dict[str, Trial]:
    """What ``study`` took over from another one, by the digest of the recipe."""
    found = {}
    for digest, taken in () if study.warm_start is None else study.warm_start.results.items():
        score = fitness_of(taken.result.scores, objective)
        if score is not None:
            scores = taken.result.scores
            found[digest] = Trial(
                "candidate",
                taken.name,
                -1,
                -1,
                digest,
                values=(score,),
                scores=scores,
                fingerprint=taken.result.fingerprint,
                basis=Basis.of(scores, measure.value),
            )
    return found


def _failure(outcome: Outcome) -> Failure:
    """Why ``outcome`` makes no fitness."""
    if outcome.scores is None:
        return outcome.failure or Failure(FailureKind.EVALUATION, "no scores")
    values = ", ".join(f"{t.task} {t.metric} {t.value:g}" for t in outcome.scores.tasks)
    reason = f"the fitness of these scores is not finite: {values}"
    return Failure(FailureKind.NON_FINITE_SCORES, reason)


def _answer_from(trial: Trial, known: Trial) -> Trial:
    """``trial`` with the result of ``known``, which had the same recipe."""
    return replace(
        trial,
        values=known.values,
        basis=known.basis,
        scores=known.scores,
        failure=known.failure,
        fingerprint=known.fingerprint,
        config=known.config,
        seconds=Seconds(),
        cached_from=known.name,
        attempts=0,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _text(values: Values) -> str:
    return "invalid:" + json.dumps(values, sort_keys=True)
