"""The search: baselines, generations, validation of the best, test of the winner.

The loop has no state of its own: everything that decides is in the study or follows from it by replay. A kill
between any two instructions costs the evaluations in flight and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import StudyError
from evomerge.fitness.items import ItemSet, Measure
from evomerge.fitness.scores import Split
from evomerge.recipe import Recipe, SearchSpace
from evomerge.search.baselines import Baseline
from evomerge.search.observers import Observer, Observers
from evomerge.search.progress import Meter, Phase
from evomerge.search.ranking import Objective, finalists, winner
from evomerge.search.results import Ending, SearchResult
from evomerge.search.samplers import SamplerPlan
from evomerge.search.scoring import Candidate, Scoring
from evomerge.search.stream import Stream, open_stream
from evomerge.study.study import SplitResult, Study, Trial
from evomerge.workers.executor import Executor
from evomerge.workers.jobs import Job

__all__ = ["Ending", "SearchPlan", "SearchResult", "recipe_of", "search"]


@dataclass(frozen=True)
class SearchPlan:
    """What is searched. ``trials``: candidates of all runs together; baselines are evaluated in addition.

    ``top_k``: how many of the best candidates (by search score) are compared on validation items.
    ``lag``: how many candidates may be proposed beyond the end of the oldest untold generation (``stream``).
    ``measure``: what candidates and baselines are scored by; validation and test use the tasks' metrics, and
    where it is another one, baselines and finalists are scored by both on search items.
    """

    space: SearchSpace
    sampler: SamplerPlan
    objective: Objective
    baselines: tuple[Baseline, ...]
    trials: int
    top_k: int = 5
    lag: int = 0
    measure: Measure = Measure.METRIC


def search(
    plan: SearchPlan,
    study: Study,
    executor: Executor,
    observers: Sequence[Observer] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> SearchResult:
    """Search until ``study`` has ``plan.trials`` candidates, validate the best ones and test the winner.

    May be killed at any point: the same call continues, and the finished study equals that of a run without
    kills. ``should_stop`` is asked between two results; ``executor`` stays open (its owner closes it). An
    observer that raises is logged and dropped (``observers.Observers``).

    Raises:
        StudyError: The sampler no longer proposes what the study recorded; more than half of the
            candidates failed; the storage refused; another driver has taken the study over.
        UserError: From the executor: a mistake that no other candidate would survive.
    """
    run = _Run(plan, study, executor, Observers(observers), should_stop)
    run.observer.on_start(study)
    try:
        run.baselines()
        ending = run.generations()
        run.metrics()
        run.validation()
        run.test()
    except _Stopped:
        ending = Ending.STOPPED
    best = winner(study, plan.objective, plan.top_k)
    result = SearchResult(ending, best, len(study.candidates()), run.evaluated)
    run.observer.on_end(result)
    return result


def recipe_of(trial: Trial, plan: SearchPlan) -> Recipe:
    """The recipe that ``trial`` scored.

    Raises:
        RecipeError: The values of a failed candidate do not give a valid recipe.
        StudyError: The plan has no baseline of that name.
    """
    if trial.kind == "candidate":
        return plan.space.fill(dict(trial.parameters))
    for baseline in plan.baselines:
        if baseline.name == trial.name:
            return baseline.recipe
    raise StudyError(trial.name, "the experiment has no such baseline")


class _Stopped(Exception):  # noqa: N818 (no error)
    """``should_stop`` returned true."""


class _Run:
    """One call of ``search``: its arguments, and its progress."""

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
        self.scoring = Scoring(study, executor, plan.objective, plan.measure)
        self.split_jobs = 0
        self.meter = Meter(study)

    @property
    def evaluated(self) -> int:
        """Jobs that workers ran."""
        return self.scoring.evaluated + self.split_jobs

    def baselines(self) -> None:
        """Scores the baselines."""
        done = {t.name for t in self.study.baselines()}
        self._begin(Phase.BASELINES, len(done), len(self.plan.baselines))
        for index, baseline in enumerate(self.plan.baselines):
            if baseline.name not in done:
                self.scoring.add(Candidate.of_baseline(baseline, index))
        for trial in self.scoring.run():
            self._show(trial)

    def generations(self) -> Ending:
        """Searches until the budget is spent or the sampler has converged."""
        plan, study = self.plan, self.study
        stream = open_stream(plan.sampler, plan.space.dimensions, plan.lag, plan.trials, study)
        self._begin(Phase.SEARCH, len(study.candidates()), plan.trials)
        self._propose(stream)
        for trial in self.scoring.run():
            stream.note_recorded(trial)
            self._show(trial)
            while told := stream.tell():
                self.observer.on_generation(told, self.meter.read())
                stream.refuse_mass_failure()
                self._propose(stream)
        return Ending.CONVERGED if stream.converged else Ending.BUDGET

    def metrics(self) -> None:
        """Scores baselines and finalists by their metrics on search items, where the search does not."""
        if self.plan.measure is Measure.METRIC:
            return
        scored = [t for t in self.study.baselines() if not t.failed]
        trials = (*scored, *finalists(self.study, self.plan.top_k))
        self._score_again(Phase.METRICS, Split.SEARCH, trials, self.study.metric_results())

    def validation(self) -> None:
        """Scores the finalists on items that the search has not seen."""
        best = finalists(self.study, self.plan.top_k)
        done = self.study.split_results(Split.VALIDATION)
        self._score_again(Phase.VALIDATION, Split.VALIDATION, best, done)

    def test(self) -> None:
        """Scores baselines and winner on items that were not used before."""
        best = winner(self.study, self.plan.objective, self.plan.top_k)
        scored = [t for t in self.study.baselines() if not t.failed]
        trials = [*scored, *([] if best is None else [best])]
        self._score_again(Phase.TEST, Split.TEST, trials, self.study.split_results(Split.TEST))

    def _propose(self, stream: Stream) -> None:
        if stream.population:
            self.meter.generation, self.meter.population = stream.generation, stream.population
        for proposal in stream.take():
            self.scoring.add(Candidate.of_proposal(proposal, self.plan.space))

    def _score_again(
        self, phase: Phase, split: Split, trials: Sequence[Trial], done: Mapping[int, SplitResult]
    ) -> None:
        """Scores those of ``trials`` that are not ``done`` by their metrics on ``split``."""
        todo = {t.name: t for t in trials if t.number not in done}
        self._begin(phase, len(trials) - len(todo), len(trials))
        jobs = deque(Job(name, recipe_of(trial, self.plan), ItemSet(split)) for name, trial in todo.items())
        for outcome in self.executor.map(jobs):
            self.split_jobs += 1
            trial = todo[outcome.key]
            result = SplitResult(outcome.scores, outcome.failure, outcome.fingerprint)
            if split is Split.SEARCH:
                self.study.record_metric(trial.number, result)
            else:
                self.study.record_split(trial.number, split, result)
            self.meter.count(None)
            self.observer.on_split(trial, split, result, self.meter.read())
            self._stop_if_asked()

    def _show(self, trial: Trial) -> None:
        self.meter.count(trial)
        self.observer.on_trial(trial, self.meter.read())
        self._stop_if_asked()

    def _begin(self, phase: Phase, done: int, total: int) -> None:
        self.meter.begin(phase, done, total)
        self.observer.on_phase(self.meter.read())
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.should_stop():
            raise _Stopped
