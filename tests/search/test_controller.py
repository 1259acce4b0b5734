from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from search_fakes import (
    DISCRETE,
    MIXED,
    FakeExecutor,
    KillAfterWrite,
    Killed,
    MeanScore,
    fake_scores,
    heavy_fails,
    make_plan,
    note_drift,
    weights_of,
)

from evomerge.errors import FailureKind, FitnessError, StudyError
from evomerge.fitness.scores import Scores, Split
from evomerge.recipe import Dimension, Recipe
from evomerge.search import stream
from evomerge.search.controller import Ending, SearchPlan, SearchResult, recipe_of, search
from evomerge.search.leaderboard import leaderboard
from evomerge.search.observers import Observer
from evomerge.search.progress import Phase, Progress
from evomerge.search.ranking import finalists, winner
from evomerge.search.samplers import Sampler, SamplerPlan, make_sampler
from evomerge.study.study import SplitResult, Study, Trial, versions
from evomerge.workers.jobs import Failure, Job, Outcome

Fails = Callable[[Recipe], bool]


def opened(storage: str, plan: SearchPlan, name: str = "s") -> Study:
    return Study.open(storage, name, document={}, dimensions=plan.space.dimensions)


def run(
    storage: str,
    plan: SearchPlan,
    executor: FakeExecutor | None = None,
    observer: Observer | None = None,
    name: str = "s",
) -> tuple[Study, SearchResult]:
    study = opened(storage, plan, name)
    result = search(plan, study, executor or FakeExecutor(), [] if observer is None else [observer])
    return study, result


def with_settings(plan: SearchPlan, **changed: object) -> SamplerPlan:
    return replace(plan.sampler, settings=plan.sampler.settings.model_copy(update=changed))


class Diary(Observer):
    def __init__(self) -> None:
        self.phases: list[tuple[Phase, int, int]] = []
        self.trials: list[tuple[Trial, Progress]] = []
        self.generations: list[list[str]] = []
        self.splits: list[tuple[str, Split]] = []
        self.resumed = 0

    def on_start(self, study: Study) -> None:
        self.resumed += study.resumed

    def on_phase(self, progress: Progress) -> None:
        self.phases.append((progress.phase, progress.done, progress.total))

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        self.trials.append((trial, progress))

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
        self.generations.append([t.name for t in trials])

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
        self.splits.append((trial.name, split))


# --- one undisturbed search --------------------------------------------------------------------------------


def test_a_search_beats_its_baselines_and_names_a_winner(storage: str) -> None:
    plan = make_plan(trials=64)
    study, result = run(storage, plan)
    assert result.ending is Ending.BUDGET
    assert result.candidates == len(study.candidates()) == 64
    assert [t.name for t in study.baselines()] == [b.name for b in plan.baselines]
    assert [len(g) for g in study.generations()] == [8] * 8
    best, beaten = study.best("candidate"), study.best("baseline")
    assert best is not None
    assert beaten is not None
    assert best.score is not None
    assert beaten.score is not None
    assert best.score > beaten.score
    assert result.winner is not None
    tested = study.split_scores(Split.TEST)
    assert set(tested) == {t.number for t in study.baselines() if not t.failed} | {result.winner.number}
    assert list(study.split_scores(Split.VALIDATION)) == sorted(t.number for t in finalists(study, 3))


def test_the_first_generation_begins_with_the_starts(journal: str) -> None:
    plan = make_plan()
    study, _ = run(journal, plan)
    assert tuple(t.vector for t in study.generations()[0][:4]) == plan.sampler.starts


def test_every_trial_holds_what_its_recipe_scores(journal: str) -> None:
    plan = make_plan()
    study, _ = run(journal, plan)
    for trial in study.trials():
        recipe = recipe_of(trial, plan)
        if heavy_fails(recipe):
            assert trial.failure is not None
            assert (trial.scores, trial.score, trial.fingerprint) == (None, None, None)
        else:
            assert trial.scores == fake_scores(recipe, Split.SEARCH)
            assert trial.score == MeanScore().score(trial.scores)
            assert trial.fingerprint is not None


def test_observers_are_told_what_happens(journal: str) -> None:
    plan, diary = make_plan(trials=20), Diary()
    study, _ = run(journal, plan, observer=diary)
    assert diary.phases == [
        (Phase.BASELINES, 0, 5),
        (Phase.SEARCH, 0, 20),
        (Phase.VALIDATION, 0, 3),
        (Phase.TEST, 0, len(diary.splits) - 3),
    ]
    assert {t.name for t, _ in diary.trials} == {t.name for t in study.trials()}
    assert [len(g) for g in diary.generations] == [8, 8]  # the cut one is not told
    last = diary.trials[-1][1]
    assert (last.done, last.total, last.generation, last.population) == (20, 20, 2, 4)
    assert last.best == study.best("candidate")
    assert last.best_baseline == study.best("baseline")
    assert last.rate is not None
    assert last.remaining == 0
    assert diary.resumed == 0
    again = Diary()
    run(journal, plan, observer=again)
    assert again.resumed == 1
    assert [(done == total) for _, done, total in again.phases] == [True] * 4
    assert again.trials == []


def test_the_search_sees_search_items_only(journal: str) -> None:
    executor = FakeExecutor()
    plan = make_plan()
    study, _ = run(journal, plan, executor)
    splits = [job.items.split for job in executor.jobs]
    searched = splits.count(Split.SEARCH)
    assert splits == [Split.SEARCH] * searched + [Split.VALIDATION] * 3 + [Split.TEST] * (
        len(splits) - searched - 3
    )
    assert searched == sum(t.cached_from is None for t in study.trials())


def test_a_converged_sampler_ends_the_search(journal: str) -> None:
    class Flat(MeanScore):
        def score(self, scores: Scores) -> float:
            return 0.5

    plan = make_plan(DISCRETE, trials=10_000)
    plan = replace(plan, sampler=with_settings(plan, restarts=0), objective=Flat())
    study, result = run(journal, plan)
    assert result.ending is Ending.CONVERGED
    assert result.candidates < 10_000
    assert result.winner is not None
    again, resumed = run(journal, plan)
    assert resumed == replace(result, evaluated=0)
    assert again.snapshot() == study.snapshot()


# --- whatever happens on the way, the study is the same ----------------------------------------------------


@pytest.mark.parametrize("document", [MIXED, DISCRETE], ids=["mixed", "discrete"])
@pytest.mark.parametrize("sampler", ["cma_es", "random"])
def test_killed_before_any_outcome_and_resumed_the_study_is_the_same(
    tmp_path: Path, document: dict[str, object], sampler: str
) -> None:
    plan = make_plan(document, trials=22, sampler=sampler)
    reference, whole = run(f"journal:///{tmp_path}/reference.log", plan)
    for lives in range(whole.evaluated):
        url = f"journal:///{tmp_path}/{lives}.log"
        with pytest.raises(Killed):
            run(url, plan, FakeExecutor(order=lives, lives=lives))
        study, resumed = run(url, plan, FakeExecutor(order=lives + 1))
        assert resumed.evaluated == whole.evaluated - lives  # nothing twice
        assert study.snapshot() == reference.snapshot()
        assert resumed.winner is not None
        assert whole.winner is not None
        assert resumed.winner.place == whole.winner.place


def test_killed_after_any_write_and_resumed_the_study_is_the_same(tmp_path: Path) -> None:
    plan = make_plan(DISCRETE, trials=22)
    reference, _ = run(f"journal:///{tmp_path}/reference.log", plan)
    writes = len(reference.trials()) + sum(len(reference.split_results(s)) for s in Split)
    for n in range(1, writes + 1):
        url = f"journal:///{tmp_path}/{n}.log"
        with pytest.raises(Killed):
            run(url, plan, FakeExecutor(order=n), KillAfterWrite(n))
        assert run(url, plan, FakeExecutor(order=n))[0].snapshot() == reference.snapshot()


def test_killed_again_and_again_the_study_is_the_same(storage: str, tmp_path: Path) -> None:
    plan = make_plan(trials=30)
    reference, _ = run(f"journal:///{tmp_path}/reference.log", plan)
    chance = random.Random(1)
    kills = 0
    while True:
        try:
            study, _ = run(storage, plan, FakeExecutor(order=kills, lives=chance.randint(0, 9)))
        except Killed:
            kills += 1
        else:
            break
    assert kills > 3
    assert study.snapshot() == reference.snapshot()
    assert Study.open(storage, "s").digest() == reference.digest()


@pytest.mark.parametrize("document", [MIXED, DISCRETE], ids=["mixed", "discrete"])
def test_the_order_in_which_candidates_finish_does_not_matter(
    tmp_path: Path, document: dict[str, object]
) -> None:
    plan = make_plan(document, trials=40)
    runs = [run(f"journal:///{tmp_path}/{i}.log", plan, FakeExecutor(order=i or None)) for i in range(4)]
    assert len({study.digest() for study, _ in runs}) == 1
    numbers = [[t.number for t in study.trials()] for study, _ in runs]
    assert numbers[0] != numbers[1]  # although they did finish in another order


def test_a_larger_budget_continues_as_if_it_had_been_given_at_once(tmp_path: Path) -> None:
    long = make_plan(trials=45)
    reference, expected = run(f"journal:///{tmp_path}/reference.log", long)
    url = f"journal:///{tmp_path}/study.log"
    for trials in (3, 10, 16, 17, 45):
        study, result = run(url, replace(long, trials=trials))
        assert result.candidates == trials
    assert study.snapshot()["trials"] == reference.snapshot()["trials"]
    assert result.winner is not None
    assert expected.winner is not None
    assert result.winner.place == expected.winner.place


def test_a_smaller_budget_than_what_is_done_changes_nothing(journal: str) -> None:
    plan = make_plan(trials=20)
    study, _ = run(journal, plan)
    again, result = run(journal, replace(plan, trials=5))
    assert again.snapshot() == study.snapshot()
    assert result.evaluated == 0


def test_a_clean_stop_goes_on_where_it_ended(tmp_path: Path) -> None:
    plan = make_plan(trials=20)
    reference, _ = run(f"journal:///{tmp_path}/reference.log", plan)
    url = f"journal:///{tmp_path}/study.log"
    for n in (1, 3, 4, 5, 6, 7):
        study = opened(url, plan)
        asked = partial(next, iter([False] * n), True)  # noqa: FBT003
        result = search(plan, study, FakeExecutor(order=n), should_stop=asked)
        assert result.ending is Ending.STOPPED
    study, result = run(url, plan)
    assert result.ending is Ending.BUDGET
    assert study.snapshot() == reference.snapshot()


def test_a_study_that_was_altered_is_refused(journal: str) -> None:
    plan = make_plan(trials=20)
    run(journal, plan)
    other = replace(plan, sampler=with_settings(plan, seed=8))
    with pytest.raises(StudyError, match=r"proposes another g0\.\d than the study recorded"):
        run(journal, other)
    with pytest.raises(StudyError, match=r"proposes another g0\.\d than the study recorded"):
        run(journal, replace(other, trials=3))  # also where the only generation is partial


# --- a lag ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [MIXED, DISCRETE], ids=["mixed", "discrete"])
@pytest.mark.parametrize("lag", [5, 20])
def test_with_a_lag_neither_order_nor_workers_nor_kills_change_the_study(
    tmp_path: Path, document: dict[str, object], lag: int
) -> None:
    plan = make_plan(document, trials=45, lag=lag)
    reference, whole = run(f"journal:///{tmp_path}/reference.log", plan)
    assert [len(g) for g in reference.generations()] == [8, 8, 8, 8, 8, 5]
    for workers in (1, 3, 50):
        url = f"journal:///{tmp_path}/{workers}.log"
        assert run(url, plan, FakeExecutor(workers, workers=workers))[0].snapshot() == reference.snapshot()
    chance = random.Random(lag)
    for n in range(6):
        url, kills, evaluated = f"journal:///{tmp_path}/killed{n}.log", 0, 0
        while True:
            executor = FakeExecutor(100 * n + kills, lives=chance.randint(0, 15), workers=1 + n)
            try:
                study, _ = run(url, plan, executor)
            except Killed:
                kills, evaluated = kills + 1, evaluated + len(executor.jobs)
            else:
                break
        assert kills
        assert study.snapshot() == reference.snapshot()
        assert evaluated + len(executor.jobs) == whole.evaluated  # nothing twice


def test_with_a_lag_killed_after_any_write_and_resumed_the_study_is_the_same(tmp_path: Path) -> None:
    plan = make_plan(DISCRETE, trials=22, population=4, lag=7)
    reference, _ = run(f"journal:///{tmp_path}/reference.log", plan)
    several_open = 0
    for n in range(1, len(reference.trials())):
        url = f"journal:///{tmp_path}/{n}.log"
        with pytest.raises(Killed):
            run(url, plan, FakeExecutor(order=n), KillAfterWrite(n))
        begun = Study.open(url, "s").generations()
        several_open += sum(0 < len(g) < 4 for g in begun) > 1
        assert run(url, plan, FakeExecutor(order=n))[0].snapshot() == reference.snapshot()
    assert several_open > 3


def test_with_a_lag_a_worker_that_falls_free_goes_on_with_the_next_generation(journal: str) -> None:
    class Slow(FakeExecutor):
        """Its first candidate takes for ever: as long as anything else is to be done."""

        def map(self, queue: deque[Job]) -> Iterator[Outcome]:
            slow: list[Job] = []
            while queue or slow:
                job = queue.popleft() if queue else slow.pop()
                if job.key == "g0.0" and queue:
                    slow.append(job)
                    continue
                self.jobs.append(job)
                yield self._outcome(job)

    executor = Slow()
    run(journal, make_plan(trials=40, lag=11), executor)
    keys = [job.key for job in executor.jobs if job.key.startswith("g")]
    assert keys[: keys.index("g0.0")] == [
        *(f"g0.{i}" for i in range(1, 8)),
        *(f"g1.{i}" for i in range(8)),
        *(f"g2.{i}" for i in range(3)),
    ]


def test_a_recipe_is_evaluated_once_across_generations_in_flight(journal: str) -> None:
    plan = make_plan(DISCRETE, trials=60, population=4, lag=25)
    executor = FakeExecutor(order=3)
    study, _ = run(journal, plan, executor)
    keys = [job.recipe.key() for job in executor.jobs if job.items.split is Split.SEARCH]
    assert len(keys) == len(set(keys))
    first: dict[str, Trial] = {}
    for trial in study.trials():
        assert (trial.cached_from is None) == (trial.recipe not in first)
        assert trial.cached_from in (None, first.setdefault(trial.recipe, trial).name)


def test_random_search_finds_the_same_with_and_without_a_lag(tmp_path: Path) -> None:
    plans = [make_plan(trials=30, sampler="random", lag=lag) for lag in (0, 12)]
    studies = [run(f"journal:///{tmp_path}/{i}.log", plan)[0] for i, plan in enumerate(plans)]
    assert studies[0].snapshot() == studies[1].snapshot()


def test_with_a_lag_a_larger_budget_continues_as_if_it_had_been_given_at_once(tmp_path: Path) -> None:
    plan = make_plan(trials=40, lag=11)
    reference, _ = run(f"journal:///{tmp_path}/reference.log", plan)
    url = f"journal:///{tmp_path}/study.log"
    for trials in (3, 8, 13, 30, 40):
        study, result = run(url, replace(plan, trials=trials), FakeExecutor(order=trials))
        assert result.candidates == trials
    assert study.snapshot()["trials"] == reference.snapshot()["trials"]


def test_with_a_lag_a_converged_sampler_ends_the_search_when_the_rest_is_scored(tmp_path: Path) -> None:
    class Flat(MeanScore):
        def score(self, scores: Scores) -> float:
            return 0.5

    plan = make_plan(DISCRETE, trials=10_000, lag=13)
    plan = replace(plan, sampler=with_settings(plan, restarts=1), objective=Flat())
    reference, result = run(f"journal:///{tmp_path}/reference.log", plan)
    assert result.ending is Ending.CONVERGED
    sizes = [len(g) for g in reference.generations()]
    assert sizes[-1] == 13
    assert sizes[sizes.index(16) - 2 : sizes.index(16)] == [8, 5]  # drawn ahead of the restart
    url = f"journal:///{tmp_path}/study.log"
    with pytest.raises(Killed):
        run(url, plan, FakeExecutor(order=1), KillAfterWrite(result.candidates - 4))
    again, resumed = run(url, plan, FakeExecutor(order=2))
    assert resumed.ending is Ending.CONVERGED
    assert again.snapshot() == reference.snapshot()


def test_with_a_lag_observers_see_the_generation_that_was_told(journal: str) -> None:
    diary = Diary()
    told: list[tuple[int, int]] = []

    class Generations(Diary):
        def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
            super().on_generation(trials, progress)
            told.append((progress.generation, progress.population))

    diary = Generations()
    run(journal, make_plan(trials=30, lag=20), FakeExecutor(order=2), diary)
    assert told == [(0, 8), (1, 8), (2, 8)]
    assert [len(g) for g in diary.generations] == [8] * 3
    last = diary.trials[-1][1]
    assert (last.done, last.total, last.generation, last.population) == (30, 30, 3, 6)


def test_more_than_half_failed_of_what_was_told_stops_whatever_is_known_beyond(tmp_path: Path) -> None:
    class FirstGenerationOnly(FakeExecutor):
        def _outcome(self, job: Job) -> Outcome:
            outcome = super()._outcome(job)
            if not job.key.startswith("g") or job.key.startswith("g0."):
                return outcome
            return replace(outcome, scores=None, failure=failure("lost"))

    for order in range(4):
        url = f"journal:///{tmp_path}/{order}.log"
        for _ in range(2):
            executor = FirstGenerationOnly(order, fails=lambda _: False)
            with pytest.raises(StudyError, match=r"stopped: 16 of 24 candidates failed \(16 evaluation\)"):
                run(url, make_plan(trials=80, lag=30), executor)


# --- other versions of the libraries -----------------------------------------------------------------------


def upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, pycma is a later one that proposes something else."""

    def other(plan: SamplerPlan, dimensions: Sequence[Dimension]) -> Sampler:
        settings = plan.settings.model_copy(update={"seed": plan.settings.seed + 1})
        return make_sampler(replace(plan, settings=settings), dimensions)

    monkeypatch.setattr(stream, "make_sampler", other)
    monkeypatch.setattr(stream, "versions", lambda: {**versions(), "cma": "99.0"})


def drifted(
    url: str, plan: SearchPlan, executor: FakeExecutor | None = None, *, accept: bool = True
) -> Study:
    study = opened(url, plan)
    if accept:
        note_drift(study, plan.lag, stream.versions())
    search(plan, study, executor or FakeExecutor())
    return study


def test_with_a_lag_an_accepted_drift_keeps_what_is_recorded_of_every_open_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(trials=50, lag=12)
    urls = [f"journal:///{tmp_path}/{i}.log" for i in range(6)]
    for url in urls:
        with pytest.raises(Killed):
            run(url, plan, FakeExecutor(order=5, lives=24))
    old = opened(urls[0], plan).candidates()
    upgrade(monkeypatch)
    with pytest.raises(StudyError, match=r"search\.warm_start"):
        run(urls[0], plan)
    expected = drifted(urls[0], plan)
    assert {t.place: t for t in expected.candidates()}.items() >= {t.place: t for t in old}.items()
    assert [len(g) for g in expected.generations()] == [8] * 6 + [2]
    for lives, url in enumerate(urls[1:]):
        with pytest.raises(Killed):
            drifted(url, plan, FakeExecutor(order=lives, lives=3 * lives))
        study = drifted(url, plan, FakeExecutor(order=lives, workers=3), accept=False)
        assert study.snapshot() == expected.snapshot()
        assert len(study.accepted_drifts) == 1


@pytest.mark.parametrize("before", [8, 16, 19])  # after whole generations, and in the midst of one
def test_a_drift_is_refused_with_the_library_that_changed_and_one_that_was_accepted_goes_on(
    journal: str, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(trials=40)
    run(journal, replace(plan, trials=before))
    old = opened(journal, plan).candidates()
    upgrade(monkeypatch)
    with pytest.raises(StudyError) as caught:
        run(journal, plan)
    assert f"cma {versions()['cma']} -> 99.0" in str(caught.value)
    assert "numpy" not in str(caught.value)
    assert "search.warm_start" in str(caught.value)
    study = drifted(journal, plan)
    assert study.candidates()[:before] == old[:before] == old
    assert len(study.candidates()) == 40
    assert [len(g) for g in study.generations()] == [8] * 5
    again = Study.open(journal, "s")
    assert again.versions["cma"] == versions()["cma"]
    assert [(d.generations, d.candidates, d.versions["cma"]) for d in again.accepted_drifts] == [
        (math.ceil(before / 8), before, "99.0")
    ]


def test_after_an_accepted_drift_the_study_is_the_same_however_often_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(trials=40)
    urls = [f"journal:///{tmp_path}/{i}.log" for i in range(12)]
    for url in urls:
        with pytest.raises(Killed):
            run(url, replace(plan, trials=30), FakeExecutor(lives=16))
    upgrade(monkeypatch)
    expected = drifted(urls[0], plan)
    for lives, url in enumerate(urls[1:]):
        with pytest.raises(Killed):
            drifted(url, plan, FakeExecutor(order=lives, lives=2 * lives))
        # what was accepted stays accepted
        study = drifted(url, plan, FakeExecutor(order=lives), accept=False)
        assert study.snapshot() == expected.snapshot()
        assert len(study.accepted_drifts) == 1


def test_going_back_to_the_old_versions_is_another_drift(
    journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(trials=40)
    run(journal, replace(plan, trials=16))
    with monkeypatch.context() as upgraded:
        upgrade(upgraded)
        drifted(journal, replace(plan, trials=24))
    with pytest.raises(StudyError, match=rf"another g2\.\d .* cma 99\.0 -> {versions()['cma']}"):
        run(journal, plan)
    study = drifted(journal, plan)
    assert [d.candidates for d in study.accepted_drifts] == [16, 24]
    installed = versions()["cma"]
    assert [[(c.field, c.old, c.new) for c in d.changed] for d in study.accepted_drifts] == [
        [("cma", installed, "99.0")],
        [("cma", "99.0", installed)],
    ]


# --- duplicates --------------------------------------------------------------------------------------------


def test_a_recipe_is_evaluated_once_and_its_equals_are_answered_from_it(journal: str) -> None:
    plan = make_plan(DISCRETE, trials=60)
    executor = FakeExecutor(order=3)
    study, _ = run(journal, plan, executor)
    keys = [job.recipe.key() for job in executor.jobs if job.items.split is Split.SEARCH]
    assert len(keys) == len(set(keys)) <= 9 + len(plan.baselines)
    first: dict[str, Trial] = {}
    for trial in study.trials():
        origin = first.setdefault(trial.recipe, trial)
        if origin is trial:
            assert trial.cached_from is None
            assert trial.attempts == 1
        else:
            assert trial.cached_from == origin.name
            assert trial.attempts == 0
            result = (trial.score, trial.scores, trial.failure, trial.fingerprint)
            assert result == (origin.score, origin.scores, origin.failure, origin.fingerprint)
    assert sum(t.cached_from is not None for t in study.candidates()) > 30


def test_finalists_are_distinct_and_of_equals_the_earlier(journal: str) -> None:
    study, _ = run(journal, make_plan(DISCRETE, trials=60))
    best = finalists(study, 5)
    assert len({t.recipe for t in best}) == len(best) == 5
    scores = [t.score for t in best if t.score is not None]
    assert scores == sorted(scores, reverse=True)
    for trial in best:
        assert trial.place == min(t.place for t in study.candidates() if t.recipe == trial.recipe)


# --- failures ----------------------------------------------------------------------------------------------


def failure(reason: str) -> Failure:
    return Failure(FailureKind.EVALUATION, reason)


def test_failed_candidates_are_recorded_and_the_search_goes_on(journal: str) -> None:
    study, result = run(journal, make_plan(trials=40))
    failed = [t for t in study.trials() if t.failed]
    assert 0 < len(failed) < 20
    assert {t.failure.kind for t in failed if t.failure} == {FailureKind.NON_FINITE_WEIGHTS}
    assert result.winner is not None


def test_a_failed_baseline_is_recorded_and_not_tested(journal: str) -> None:
    plan = make_plan(trials=16)
    fails: Fails = lambda r: r.merge_method == "ties" and r.parameters == {}  # noqa: E731
    study, _ = run(journal, plan, FakeExecutor(fails=fails))
    ties = study.baselines()[-1]
    assert ties.failed
    assert ties.number not in study.split_results(Split.TEST)


def test_more_than_half_failed_stops_the_search_and_says_why(journal: str) -> None:
    plan = make_plan(trials=40)

    def mostly(recipe: Recipe) -> bool:
        return recipe.merge_method in ("ties", "dare_ties") and weights_of(recipe)[0] > 0.4

    for _ in range(2):  # also when it is tried again
        with pytest.raises(
            StudyError, match=r"of \d+ candidates failed \(\d+ non_finite_weights\).*holds NaN"
        ) as caught:
            run(journal, plan, FakeExecutor(fails=mostly))
        assert "begin a new study" in str(caught.value)
    assert len(opened(journal, plan).candidates()) % 8 == 0


def test_a_score_that_is_no_number_is_a_failure(journal: str) -> None:
    class Unbounded(MeanScore):
        def score(self, scores: Scores) -> float:
            value = super().score(scores)
            if value < -0.5:
                raise FitnessError("fitness.tasks[0]", "the logarithm of 0")
            return value if value > -0.1 else float("-inf")

    study, _ = run(journal, replace(make_plan(trials=16), objective=Unbounded()))
    failed = [
        t.failure
        for t in study.trials()
        if t.failure and t.failure.kind is not FailureKind.NON_FINITE_WEIGHTS
    ]
    assert {f.kind for f in failed} == {FailureKind.NON_FINITE_SCORES}
    assert all(f.reason.startswith("the fitness of these scores is not finite: steps acc") for f in failed)
    assert len(failed) >= 2


def test_values_that_make_no_recipe_are_failures_and_reach_no_worker(journal: str) -> None:
    document = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [{"int": [0, 6]}, {"int": [3, 8]}]}]},
            {"sources": [{"model": "a", "layer_range": [4, 8]}]},
        ],
    }
    executor = FakeExecutor(fails=lambda _: False)
    study, _ = run(journal, make_plan(document, trials=32, sampler="random"), executor)
    invalid = [t for t in study.candidates() if t.failure and t.failure.kind is FailureKind.INVALID_RECIPE]
    assert invalid
    assert all("layer_range" in t.failure.reason for t in invalid if t.failure)
    assert all(j.recipe.slices[0].sources[0].layer_range[0] < j.recipe.slices[0].sources[0].layer_range[1]  # type: ignore[index]
               for j in executor.jobs if j.recipe.slices)  # fmt: skip
    assert {t.attempts for t in invalid} == {0}


def test_a_finalist_that_fails_on_validation_does_not_win(journal: str) -> None:
    plan = make_plan(trials=24, top_k=3)
    _, first = run(journal, plan)
    assert first.winner is not None
    unlucky = recipe_of(first.winner, plan)

    class OnValidation(FakeExecutor):
        def _outcome(self, job: Job) -> Outcome:
            outcome = super()._outcome(job)
            if job.items.split is Split.VALIDATION and job.recipe == unlucky:
                return replace(outcome, scores=None, failure=failure("lost"))
            return outcome

    study, second = run(journal, plan, OnValidation(), name="second")
    assert second.winner is not None
    assert second.winner.name != first.winner.name
    assert study.split_results(Split.VALIDATION)[_number(study, first.winner)].failure is not None
    assert winner(study, plan.objective, plan.top_k) == second.winner


def _number(study: Study, trial: Trial) -> int:
    return next(t.number for t in study.trials() if t.place == trial.place)


# --- the table at the end ----------------------------------------------------------------------------------


def test_the_leaderboard_lists_baselines_then_finalists_with_the_winner_first(journal: str) -> None:
    plan = make_plan(trials=40, top_k=4)
    study, result = run(journal, plan)
    rows = leaderboard(study, MeanScore(), plan.top_k)
    assert [r.name for r in rows[:5]] == [b.name for b in plan.baselines]
    assert len(rows) == 9
    assert [r.winner for r in rows] == [False] * 5 + [True] + [False] * 3
    assert rows[5].trial == result.winner
    validations = [r.validation for r in rows[5:] if r.validation is not None]
    assert validations == sorted(validations, reverse=True)
    assert len(validations) == 4
    tested = [r for r in rows if r.test is not None]
    assert [r.name for r in tested] == [*(b.name for b in study.baselines() if not b.failed), rows[5].name]
    for row in tested:
        assert row.low is not None
        assert row.high is not None
        assert row.test is not None
        assert row.low < row.test < row.high
    steps = rows[5].tasks[0]
    assert (steps.task, steps.metric, steps.higher_is_better) == ("steps", "acc", True)
    assert None not in (steps.search, steps.validation, steps.test)
    assert rows[6].tasks[0].test is None


def test_a_young_study_has_a_leaderboard_of_its_baselines(journal: str) -> None:
    plan = make_plan()
    study = opened(journal, plan)
    assert leaderboard(study, MeanScore()) == ()
    with pytest.raises(Killed):
        run(journal, plan, FakeExecutor(lives=5))
    rows = leaderboard(opened(journal, plan), MeanScore())
    assert [r.name for r in rows] == ["base", "math", "code", "uniform", "ties"]
    assert not any(r.winner for r in rows)
    assert {r.test for r in rows} == {None}
