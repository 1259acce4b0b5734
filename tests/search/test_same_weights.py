"""A candidate that is a baseline to the bit has its scores, whatever is killed and whoever is first."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from search_fakes import DISCRETE, FakeExecutor, Killed, fake_scores, make_plan, weights_of

from evomerge.fitness.scores import Split
from evomerge.recipe import Recipe
from evomerge.search.controller import SearchPlan, search
from evomerge.study.study import Study
from evomerge.workers.jobs import Job, Outcome, Seconds


def share(recipe: Recipe) -> float | None:
    """How much of ``math`` a merge of two models is: all that decides its weights."""
    names = [source.model for source in recipe.models or ()]
    weights = dict(zip(names, weights_of(recipe), strict=True))
    total = sum(weights.values())
    return weights.get("zoo/math", 0.0) / total if total else None


class Merged(FakeExecutor):
    """As a worker: fingerprints are of weights, and a model that is known is not scored."""

    def __init__(self, configs: Mapping[str, str | None], lives: int | None = None, order: int = 0) -> None:
        super().__init__(order=order, fails=lambda recipe: share(recipe) is None, lives=lives, workers=3)
        self.scored: list[str] = []
        self._configs = configs

    def _outcome(self, job: Job) -> Outcome:
        outcome = super()._outcome(job)
        if outcome.failure is not None:
            return outcome
        part = share(job.recipe)
        made = replace(
            outcome, fingerprint=f"w{part}", config=self._configs[job.recipe.merge_method or ""], scores=None
        )
        if made.model in job.known:
            return replace(made, is_known=True)
        if job.items.split is Split.SEARCH:
            self.scored.append(job.key)
        alike = job.recipe.model_copy(update={"models": None, "parameters": {"lambda": 0.1 * (part or 0.0)}})
        return replace(made, scores=fake_scores(alike, job.items.split), seconds=Seconds(1, 2))


EQUAL = {"linear": "c", "passthrough": "c"}
UNKNOWN: dict[str, str | None] = {"linear": None, "passthrough": None}


@pytest.fixture
def plan() -> SearchPlan:
    return make_plan(DISCRETE, trials=40, population=4)


def done(url: str, plan: SearchPlan, executor: Merged) -> Study:
    study = Study.open(url, "s", document={}, dimensions=plan.space.dimensions)
    search(plan, study, executor)
    return study


def noted(study: Study) -> dict[str, str | None]:
    return {trial.name: trial.same_weights_as for trial in study.trials()}


def test_a_candidate_with_the_model_of_a_baseline_has_its_scores_and_is_not_scored(
    plan: SearchPlan, tmp_path: Path
) -> None:
    executor = Merged(EQUAL)
    study = done(f"journal:///{tmp_path}/a.log", plan, executor)
    baselines = {t.name: t for t in study.baselines()}
    answered = [t for t in study.candidates() if t.same_weights_as is not None]
    assert {t.same_weights_as for t in answered} == {"math", "code", "uniform"}
    for trial in answered:
        same = baselines[str(trial.same_weights_as)]
        assert (trial.values, trial.scores) == (same.values, same.scores)
        assert (trial.fingerprint, trial.config) == (same.fingerprint, same.config)
        assert trial.cached_from is None
        assert trial.name not in executor.scored
    again = Study.open(f"journal:///{tmp_path}/a.log", "s")
    assert noted(again) == noted(study)
    assert [t.config for t in again.trials()] == [t.config for t in study.trials()]


def test_a_study_is_the_same_whether_weights_are_compared_or_not(plan: SearchPlan, tmp_path: Path) -> None:
    compared = done(f"journal:///{tmp_path}/a.log", plan, Merged(EQUAL))
    scored_all = done(f"journal:///{tmp_path}/b.log", plan, Merged(UNKNOWN))
    assert set(noted(scored_all).values()) == {None} != set(noted(compared).values())
    assert compared.digest() == scored_all.digest()


def test_equal_weights_with_another_configuration_or_tokenizer_are_another_model(
    plan: SearchPlan, tmp_path: Path
) -> None:
    study = done(f"journal:///{tmp_path}/a.log", plan, Merged({"linear": "union", "passthrough": "own"}))
    assert set(noted(study).values()) == {None, "uniform"}


def test_a_failed_baseline_answers_nothing(plan: SearchPlan, tmp_path: Path) -> None:
    class Failing(Merged):
        def _outcome(self, job: Job) -> Outcome:
            outcome = super()._outcome(job)
            no_scores = job.key == "uniform" and job.items.split is Split.SEARCH
            return replace(outcome, scores=None) if no_scores else outcome

    study = done(f"journal:///{tmp_path}/a.log", plan, Failing(EQUAL))
    assert set(noted(study).values()) == {None, "math", "code"}


@pytest.mark.parametrize("order", range(3))
def test_neither_kills_nor_the_order_of_workers_change_who_is_answered(
    order: int, plan: SearchPlan, tmp_path: Path
) -> None:
    expected = done(f"journal:///{tmp_path}/a.log", plan, Merged(EQUAL))
    chance = random.Random(order)
    for _ in range(200):
        executor = Merged(EQUAL, lives=chance.randint(0, 6), order=chance.randrange(99))
        try:
            study = done(f"journal:///{tmp_path}/b.log", plan, executor)
        except Killed:
            continue
        break
    assert study.digest() == expected.digest()
    assert noted(study) == noted(expected)


def test_a_study_from_before_goes_on_without_comparing(plan: SearchPlan, tmp_path: Path) -> None:
    """Its baselines do not say what their configuration was."""
    url = f"journal:///{tmp_path}/a.log"
    with pytest.raises(Killed):
        done(url, plan, Merged(UNKNOWN, lives=9))
    study = done(url, plan, Merged(EQUAL))
    assert set(noted(study).values()) == {None}
    assert study.digest() == done(f"journal:///{tmp_path}/b.log", plan, Merged(UNKNOWN)).digest()
