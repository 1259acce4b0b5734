"""The search: baselines, generations, validation of the best, test of the winner.

The loop has no state of its own: everything that decides is in the study or follows from it by replay, so
being killed between any two instructions costs the evaluations in flight and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from evomerge.errors import FailureKind, FitnessError, RecipeError, StudyError
from evomerge.fitness.scores import Scores, Split
from evomerge.recipe import Recipe, SearchSpace, Values
from evomerge.search.baselines import Baseline
from evomerge.search.samplers import (
    DriftError,
    Sampler,
    SamplerSettings,
    Vector,
    make_sampler,
    rejoin,
    replay,
)
from evomerge.search.study import SplitResult, Study, Trial, versions
from evomerge.workers.executor import Executor
from evomerge.workers.jobs import Failure, Job, Outcome, Seconds

__all__ = [
    "Ending",
    "Objective",
    "Observer",
    "Phase",
    "Progress",
    "Quiet",
    "SearchPlan",
    "SearchResult",
    "finalists",
    "fitness_of",
    "losses",
    "recipe_of",
    "search",
    "winner",
]

_log = logging.getLogger(__name__)


class Objective(Protocol):
    """Scores of tasks to one number, higher is better (``fitness.objectives.Fitness``)."""

    def score(self, scores: Scores) -> float:
        """The number."""
        ...


class Phase(StrEnum):
    """What the search is doing."""

    BASELINES = "baselines"
    SEARCH = "search"
    VALIDATION = "validation"
    TEST = "test"


class Ending(StrEnum):
    """Why a search came to its end."""

    BUDGET = "budget"
    """All trials are done; validation and test as well."""
    CONVERGED = "converged"
    """The sampler had nothing left to propose; validation and test are done as well."""
    STOPPED = "stopped"
    """``should_stop`` said so; the same call goes on where this one ended."""


@dataclass(frozen=True)
class SearchPlan:
    """What to search. ``trials`` is the number of candidates in all runs together; baselines come on top.

    ``top_k``: how many of the best candidates (by search score) are compared on validation items.
    """

    space: SearchSpace
    sampler: SamplerSettings
    objective: Objective
    baselines: tuple[Baseline, ...]
    trials: int
    top_k: int = 5


@dataclass(frozen=True)
class Progress:
    """Where a search stands; ``seconds`` and ``evaluated`` count this phase of this run only."""

    phase: Phase
    done: int
    """Finished in this phase, by this run and those before."""
    total: int
    """To be finished in this phase."""
    generation: int
    """The generation in hand, from 0; -1 before the first."""
    population: int
    """Candidates in it."""
    evaluated: int
    seconds: float
    best: Trial | None
    """The best candidate so far, by search score."""
    best_baseline: Trial | None

    @property
    def rate(self) -> float | None:
        """Finished a second in this phase and run; ``None`` before the first."""
        return self.evaluated / self.seconds if self.evaluated and self.seconds > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds to the end of this phase at that rate; ``None`` before the first."""
        return None if self.rate is None else (self.total - self.done) / self.rate


class Observer(Protocol):
    """Told what happens, after it was written to the study; may not change anything."""

    def on_resume(self, study: Study) -> None:
        """The study already holds trials."""
        ...

    def on_phase(self, progress: Progress) -> None:
        """A phase begins (also when a resumed study has nothing left to do in it)."""
        ...

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        """A baseline or a candidate is recorded."""
        ...

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
        """A generation is whole and was told."""
        ...

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
        """A trial's result on validation or test items is recorded."""
        ...


class Quiet:
    """An observer that does nothing; a base for those that care about little."""

    def on_resume(self, study: Study) -> None:
        """Nothing."""

    def on_phase(self, progress: Progress) -> None:
        """Nothing."""

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        """Nothing."""

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
        """Nothing."""

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
        """Nothing."""


@dataclass(frozen=True)
class SearchResult:
    """How a search ended. ``winner`` is the best finalist on validation items, once there is one."""

    ending: Ending
    winner: Trial | None
    candidates: int
    """Candidates in the study, of all runs."""
    evaluated: int
    """Jobs run by this call, baselines, validation and test included."""


def search(
    plan: SearchPlan,
    study: Study,
    executor: Executor,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    accept_drift: bool = False,
) -> SearchResult:
    """Brings ``study`` to ``plan.trials`` candidates, validates the best and tests the winner.

    May be killed anywhere: the same call continues, and the finished study equals one that never was.
    ``should_stop`` is asked between two results; ``executor`` stays open (its owner closes it).
    ``accept_drift``: where the sampler no longer proposes what the study recorded (another version of a
    library), go on from what it was told, and note that in the study.

    Raises:
        StudyError: The sampler no longer proposes what the study recorded; more than half of the
            candidates failed; the storage refused; another driver has taken the study over.
        UserError: From the executor: a mistake that no other candidate would survive.
    """
    run = _Run(plan, study, executor, observer or Quiet(), should_stop)
    run.accept_drift = accept_drift
    if study.trials():
        run.observer.on_resume(study)
    try:
        run.baselines()
        ending = run.generations()
        run.validation()
        run.test()
    except _Stopped:
        ending = Ending.STOPPED
    best = winner(study, plan.objective, plan.top_k)
    return SearchResult(ending, best, len(study.candidates()), run.evaluated)


def losses(trials: Sequence[Trial]) -> list[float]:
    """One finite loss per trial, lower is better: minus its score; the worst of them plus 1 for the failed.

    All zero when all failed: a generation that teaches nothing.
    """
    finite = [-t.score for t in trials if t.score is not None]
    worst = max(finite) + 1.0 if finite else 0.0
    return [worst if t.score is None else -t.score for t in trials]


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


def fitness_of(scores: Scores | None, objective: Objective) -> float | None:
    """The fitness, or ``None`` where there are no scores or their fitness is no finite number."""
    try:
        fitness = math.nan if scores is None else objective.score(scores)
    except FitnessError:  # the logarithm of a metric that is 0, say
        return None
    return fitness if math.isfinite(fitness) else None


def recipe_of(trial: Trial, plan: SearchPlan) -> Recipe:
    """The recipe that ``trial`` scored.

    Raises:
        RecipeError: The values of a failed candidate make no recipe.
        StudyError: The plan has no baseline of that name.
    """
    if trial.kind == "candidate":
        return plan.space.fill(dict(trial.values))
    for baseline in plan.baselines:
        if baseline.name == trial.name:
            return baseline.recipe
    raise StudyError(trial.name, "the experiment has no such baseline")


class _Stopped(Exception):  # noqa: N818 (no error)
    """``should_stop`` said so."""


@dataclass(frozen=True)
class _Candidate:
    """What is to become a trial: everything of it that is known before it is scored."""

    trial: Trial
    recipe: Recipe | None
    """``None`` when the values make no recipe; then the trial holds the failure."""


class _Run:
    """One call of ``search``: its arguments, the cache of results by recipe, and counters for display."""

    def __init__(
        self,
        plan: SearchPlan,
        study: Study,
        executor: Executor,
        observer: Observer,
        should_stop: Callable[[], bool],
    ) -> None:
        self.plan = plan
        self.study = study
        self.executor = executor
        self.observer = observer
        self.should_stop = should_stop
        self.accept_drift = False
        self.evaluated = 0
        # A trial that was itself answered from the cache answers no other: the first evaluation does.
        self.finished = {t.recipe: t for t in reversed(study.trials()) if t.cached_from is None}
        self.candidates = len(study.candidates())
        self.failed = sum(t.failed for t in study.candidates())
        self.meter = _Meter(study)

    def baselines(self) -> None:
        """Scores what is to be beaten."""
        done = {t.name for t in self.study.baselines()}
        self._begin(Phase.BASELINES, len(done), len(self.plan.baselines))
        todo = [
            _Candidate(Trial("baseline", b.name, -1, i, _digest(b.recipe.key())), b.recipe)
            for i, b in enumerate(self.plan.baselines)
            if b.name not in done
        ]
        self._score(todo)

    def generations(self) -> Ending:
        """Searches until the budget is spent or the sampler has converged."""
        known = self.study.generations()
        sampler = self._sampler(known)
        self._begin(Phase.SEARCH, sum(map(len, known)), self.plan.trials)
        generation, first = max(len(known) - 1, 0), sum(map(len, known[:-1]))
        while first < self.plan.trials:
            vectors = sampler.ask()
            if not vectors:
                return Ending.CONVERGED
            done = {t.index: t for t in known[generation]} if generation < len(known) else {}
            allowed = vectors[: self.plan.trials - first]
            self.meter.generation, self.meter.population = generation, len(allowed)
            self._score([self._candidate(generation, i, v) for i, v in enumerate(allowed) if i not in done])
            if len(allowed) == len(vectors):
                self._tell(sampler, vectors, generation)
            generation, first = generation + 1, first + len(allowed)
        return Ending.BUDGET

    def validation(self) -> None:
        """Scores the finalists on items that the search has not seen."""
        self._split(Phase.VALIDATION, Split.VALIDATION, finalists(self.study, self.plan.top_k))

    def test(self) -> None:
        """Scores baselines and winner on items that nothing has seen."""
        best = winner(self.study, self.plan.objective, self.plan.top_k)
        scored = [t for t in self.study.baselines() if not t.failed]
        self._split(Phase.TEST, Split.TEST, [*scored, *([] if best is None else [best])])

    def _sampler(self, known: Sequence[Sequence[Trial]]) -> Sampler:
        """The sampler as it was when the last of the ``known`` generations was in hand."""
        try:
            return self._replayed(known)
        except DriftError as drift:
            now = versions()
            recorded = ([self.study.versions] + [d.versions for d in self.study.accepted_drifts])[-1]
            explained = _explained(drift, recorded, now)
            if not self.accept_drift:
                raise explained from None
            _log.warning(
                "%s Going on from the %d candidates told so far, which is noted in the study.",
                explained.reason,
                len(self.study.candidates()),
            )
            self.study.accept_drift(now)
            return self._replayed(known)

    def _replayed(self, known: Sequence[Sequence[Trial]]) -> Sampler:
        accepted = max((d.generations for d in self.study.accepted_drifts), default=0)
        sampler = make_sampler(self.plan.sampler, self.plan.space.dimensions)
        replay(sampler, [([t.vector for t in g], losses(g)) for g in known[:-1]], accepted)
        if known:
            rejoin(sampler, {t.index: t.vector for t in known[-1]}, len(known) - 1, accepted)
        return sampler

    def _tell(self, sampler: Sampler, vectors: Sequence[Vector], generation: int) -> None:
        trials = self.study.generation(generation)
        sampler.tell(vectors, losses(trials))
        self.observer.on_generation(trials, self.meter.read())
        self._refuse_mass_failure()

    def _refuse_mass_failure(self) -> None:
        if 2 * self.failed <= self.candidates:
            return
        failures = [t.failure for t in self.study.candidates() if t.failure is not None]
        counts = {kind: sum(f.kind == kind for f in failures) for kind in FailureKind}
        listed = ", ".join(f"{n} {kind.value}" for kind, n in counts.items() if n)
        raise StudyError(
            f"study {self.study.name!r}",
            f"stopped: {self.failed} of {self.candidates} candidates failed ({listed}); "
            f"the last: {failures[-1].reason}",
            "Mend the cause, or narrow the bounds that lead there, and begin a new study.",
        )

    def _candidate(self, generation: int, index: int, vector: Vector) -> _Candidate:
        values = self.plan.space.decode(vector)
        trial = Trial("candidate", f"g{generation}.{index}", generation, index, "", vector, values)
        try:
            recipe = self.plan.space.fill(values)
        except RecipeError as exception:
            failure = Failure(FailureKind.INVALID_RECIPE, str(exception))
            return _Candidate(
                replace(trial, recipe=_digest(_text(values)), failure=failure, attempts=0), None
            )
        return _Candidate(replace(trial, recipe=_digest(recipe.key())), recipe)

    def _score(self, candidates: Sequence[_Candidate]) -> None:
        """Records a trial for each: from the cache, or as its evaluation ends.

        Of several equal recipes the first is evaluated; the others wait for it.
        """
        waiting: dict[str, list[_Candidate]] = {}
        for candidate in candidates:
            waiting.setdefault(candidate.trial.recipe, []).append(candidate)
        first = []
        for recipe, equals in list(waiting.items()):
            if recipe in self.finished or equals[0].recipe is None:
                self._record_equals(equals)
            else:
                first.append(equals[0])
        by_name = {c.trial.name: c for c in first}
        for outcome in self._outcomes(Split.SEARCH, [(c.trial.name, c.recipe) for c in first if c.recipe]):
            trial = self._judged(by_name[outcome.key].trial, outcome)
            self._record(trial)
            self._record_equals(waiting[trial.recipe][1:])

    def _record_equals(self, candidates: Sequence[_Candidate]) -> None:
        for candidate in candidates:
            known = self.finished.get(candidate.trial.recipe)
            self._record(candidate.trial if known is None else _answered(candidate.trial, known))

    def _record(self, trial: Trial) -> None:
        recorded = self.study.record(trial)
        self.finished.setdefault(recorded.recipe, recorded)
        self.candidates += recorded.kind == "candidate"
        self.failed += recorded.kind == "candidate" and recorded.failed
        self.meter.count(recorded)
        self.observer.on_trial(recorded, self.meter.read())
        self._stop_if_asked()

    def _judged(self, trial: Trial, outcome: Outcome) -> Trial:
        """``trial`` with what came out; a score that is no number is a failure."""
        trial = replace(
            trial, fingerprint=outcome.fingerprint, seconds=outcome.seconds, attempts=outcome.attempts
        )
        if outcome.scores is None:
            return replace(trial, failure=outcome.failure or Failure(FailureKind.EVALUATION, "no scores"))
        score = fitness_of(outcome.scores, self.plan.objective)
        if score is None:
            values = ", ".join(f"{t.task} {t.metric} {t.value:g}" for t in outcome.scores.tasks)
            reason = f"the fitness of these scores is no finite number: {values}"
            return replace(trial, failure=Failure(FailureKind.NON_FINITE_SCORES, reason))
        return replace(trial, score=score, scores=outcome.scores)

    def _split(self, phase: Phase, split: Split, trials: Sequence[Trial]) -> None:
        done = self.study.split_results(split)
        todo = {t.name: t for t in trials if t.number not in done}
        self._begin(phase, len(trials) - len(todo), len(trials))
        recipes = [(name, recipe_of(trial, self.plan)) for name, trial in todo.items()]
        for outcome in self._outcomes(split, recipes):
            trial = todo[outcome.key]
            result = SplitResult(outcome.scores, outcome.failure, outcome.fingerprint)
            self.study.record_split(trial.number, split, result)
            self.meter.count(None)
            self.observer.on_split(trial, split, result, self.meter.read())
            self._stop_if_asked()

    def _outcomes(self, split: Split, recipes: Sequence[tuple[str, Recipe]]) -> Iterator[Outcome]:
        if not recipes:
            return
        for outcome in self.executor.map([Job(name, recipe, split) for name, recipe in recipes]):
            self.evaluated += 1
            yield outcome

    def _begin(self, phase: Phase, done: int, total: int) -> None:
        self.meter.begin(phase, done, total)
        self.observer.on_phase(self.meter.read())
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.should_stop():
            raise _Stopped


def _explained(drift: DriftError, recorded: Mapping[str, str], now: Mapping[str, str]) -> DriftError:
    """``drift`` with the libraries that changed."""
    changed = [
        f"{name} {recorded.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in dict.fromkeys((*recorded, *now))
        if recorded.get(name) != now.get(name)
    ]
    if changed:
        why = f"; since then these versions changed: {', '.join(changed)}."
        hint = "Install the recorded versions,"
    else:
        why = (
            ", although no version of a library changed: it was altered, or written on another machine type."
        )
        hint = "Go on where it was written,"
    return DriftError(
        drift.where,
        drift.reason + why,
        f"{hint} begin a new study, or go on from the history as it is with --accept-drift.",
    )


class _Meter:
    """Counts for display; nothing here decides."""

    def __init__(self, study: Study) -> None:
        self.generation, self.population = -1, 0
        self._best, self._best_baseline = study.best("candidate"), study.best("baseline")
        self._phase, self._done, self._total, self._evaluated = Phase.BASELINES, 0, 0, 0
        self._since = time.monotonic()

    def begin(self, phase: Phase, done: int, total: int) -> None:
        """A phase begins."""
        self._phase, self._done, self._total, self._evaluated = phase, done, total, 0
        self._since = time.monotonic()

    def count(self, trial: Trial | None) -> None:
        """One more is finished."""
        self._done += 1
        self._evaluated += 1
        if trial is None or trial.score is None:
            return
        if trial.kind == "candidate":
            self._best = _better(self._best, trial)
        else:
            self._best_baseline = _better(self._best_baseline, trial)

    def read(self) -> Progress:
        """The counts now."""
        return Progress(
            self._phase,
            self._done,
            self._total,
            self.generation,
            self.population,
            self._evaluated,
            time.monotonic() - self._since,
            self._best,
            self._best_baseline,
        )


def _better(old: Trial | None, new: Trial) -> Trial:
    if old is None or old.score is None or (new.score is not None and new.score > old.score):
        return new
    return old


def _answered(trial: Trial, known: Trial) -> Trial:
    """``trial`` with the result of ``known``, which had the same recipe."""
    return replace(
        trial,
        score=known.score,
        scores=known.scores,
        failure=known.failure,
        fingerprint=known.fingerprint,
        seconds=Seconds(),
        cached_from=known.name,
        attempts=0,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _text(values: Values) -> str:
    return "invalid:" + json.dumps(values, sort_keys=True)
