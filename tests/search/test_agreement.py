"""Two measures of one search: the rank correlation, its interval, and that a kill changes none of it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from search_fakes import FakeExecutor, KillAfterWrite, Killed, MeanScore, make_plan

from evomerge.errors import FailureKind, StudyError
from evomerge.fitness.items import Measure
from evomerge.fitness.scores import Scores, Split
from evomerge.report.agreement_text import agreement_document, agreement_text, agreement_warning
from evomerge.search.agreement import Agreement, agreement, kendall_tau, tau_interval
from evomerge.search.controller import SearchPlan, search
from evomerge.search.leaderboard import leaderboard
from evomerge.search.observers import Observer
from evomerge.study.study import Study
from evomerge.workers.jobs import Failure, Job, Outcome


class TwoMeasures(FakeExecutor):
    """By the answer likelihood values are ``factor`` times those by the metrics, which ``broken`` lacks."""

    def __init__(self, factor: float = 0.5, broken: str = "", lives: int | None = None) -> None:
        super().__init__(fails=lambda _: False, lives=lives)
        self.factor = factor
        self.broken = broken

    def _outcome(self, job: Job) -> Outcome:
        outcome = super()._outcome(job)
        if job.measure is Measure.METRIC:
            if job.key == self.broken and job.items.split is Split.SEARCH:
                return replace(outcome, scores=None, failure=Failure(FailureKind.TIMEOUT, "slow"))
            return outcome
        assert outcome.scores is not None
        assert job.items.split is Split.SEARCH
        tasks = tuple(
            replace(t, metric="answer_likelihood", value=self.factor * t.value) for t in outcome.scores.tasks
        )
        return replace(outcome, scores=Scores(outcome.scores.split, tasks))


def plan_of() -> SearchPlan:
    return replace(make_plan(trials=16, top_k=3), measure=Measure.ANSWER_LIKELIHOOD)


def searched(url: str, executor: FakeExecutor, observers: Sequence[Observer] = ()) -> Study:
    plan = plan_of()
    study = Study.open(url, "s", document={}, dimensions=plan.space.dimensions)
    try:
        search(plan, study, executor, observers)
    except Killed:
        study.close()
        raise
    return study


def test_measures_that_rank_alike_agree_and_those_that_rank_in_reverse_are_warned_of(tmp_path: Path) -> None:
    alike = agreement(searched(f"journal:///{tmp_path}/a.log", TwoMeasures()), MeanScore())
    assert alike is not None
    assert alike.tau == pytest.approx(1.0)
    assert agreement_warning(alike) is None
    reverse = agreement(searched(f"journal:///{tmp_path}/b.log", TwoMeasures(-1.0)), MeanScore())
    assert reverse is not None
    assert reverse.tau == pytest.approx(-1.0)
    assert "does not rank these models as their metrics do" in str(agreement_warning(reverse))
    assert agreement_document(reverse)["warning"] == agreement_warning(reverse)


def test_a_model_that_failed_by_its_metrics_is_left_out(tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/a.log"
    whole = agreement(searched(url, TwoMeasures()), MeanScore())
    study = searched(f"journal:///{tmp_path}/b.log", TwoMeasures(broken="uniform"))
    part = agreement(study, MeanScore())
    assert whole is not None
    assert part is not None
    assert (part.baselines, part.candidates) == (whole.baselines - 1, whole.candidates)
    rows = {row.name: row for row in leaderboard(study, MeanScore(), 3)}
    assert rows["uniform"].search_metric is None
    assert rows["base"].search_metric == pytest.approx(2 * rows["base"].search)
    assert rows["base"].measure == "answer_likelihood"


def test_killed_after_any_write_the_study_is_the_same(tmp_path: Path) -> None:
    expected = searched(f"journal:///{tmp_path}/whole.log", TwoMeasures())
    url, kills = f"journal:///{tmp_path}/killed.log", 0
    for _ in itertools.count():
        try:
            study = searched(url, TwoMeasures(), [KillAfterWrite(3)])
            break
        except Killed:
            kills += 1
    assert kills > 8
    assert study.snapshot() == expected.snapshot()
    assert len(expected.snapshot()["metric"]) == len(expected.baselines()) + 3
    assert Study.open(url, "s").digest() == expected.digest()


def test_a_result_by_the_metrics_is_recorded_once_and_leaves_the_trial_as_it_is(tmp_path: Path) -> None:
    study = searched(f"journal:///{tmp_path}/a.log", TwoMeasures())
    number, result = next(iter(study.metric_results().items()))
    with pytest.raises(StudyError, match=rf"metric/search/{number} is recorded already"):
        study.record_metric(number, result)
    assert study.trial(number).basis.measure == "answer_likelihood"
    assert study.split_scores(Split.SEARCH)[number] != result.scores
    assert (Split.SEARCH, number) not in study._splits


def test_a_study_that_searches_by_the_metrics_has_no_agreement(tmp_path: Path) -> None:
    plan = make_plan(trials=16)
    study = Study.open(f"journal:///{tmp_path}/a.log", "s", document={}, dimensions=plan.space.dimensions)
    executor = FakeExecutor()
    search(plan, study, executor)
    assert agreement(study, MeanScore()) is None
    assert {job.measure for job in executor.jobs} == {Measure.METRIC}
    assert set(study.snapshot()) == {"trials", "validation", "test"}


# --- the coefficient ---------------------------------------------------------------------------------------


def test_kendalls_tau_of_small_samples_worked_out_by_hand() -> None:
    assert kendall_tau([(1, 1), (2, 2), (3, 3)]) == 1.0
    assert kendall_tau([(1, 3), (2, 2), (3, 1)]) == -1.0
    # Pairs of (1,1) (2,3) (3,2): + + -
    assert kendall_tau([(1, 1), (2, 3), (3, 2)]) == pytest.approx(1 / 3)
    # One tie in the second: 5 untied pairs there, 6 in the first, all concordant
    assert kendall_tau([(1, 1), (2, 2), (3, 2), (4, 5)]) == pytest.approx(5 / math.sqrt(6 * 5))
    assert kendall_tau([(1, 1), (2, 1)]) is None
    assert kendall_tau([(1, 1)]) is None
    assert kendall_tau([]) is None


def test_the_interval_holds_the_value_gets_narrower_and_stays_within_its_range() -> None:
    for tau in (-1.0, -0.4, 0.0, 0.7, 1.0):
        bounds = [tau_interval(tau, n) for n in (2, 5, 10, 40)]
        assert all(-1.0 <= low < high <= 1.0 for low, high in bounds)
        assert all(low <= tau <= high for low, high in bounds)
        widths = [high - low for low, high in bounds]
        assert widths == sorted(widths, reverse=True)
    # By hand for tau = 1, n = 10: v = 50 / 810, c = 1.96^2 v = .2371, (1 - c) / (1 + c)
    assert tau_interval(1.0, 10) == (pytest.approx(0.6167, abs=1e-3), 1.0)


def test_the_interval_holds_the_true_value_in_about_95_of_100_samples() -> None:
    stream = random.Random(5)
    for correlation in (0.0, 0.6):
        true = 2 / math.pi * math.asin(correlation)  # of a normal distribution
        held = 0
        for _ in range(400):
            first = [stream.gauss(0, 1) for _ in range(9)]
            noise = math.sqrt(1 - correlation**2)
            pairs = [(x, correlation * x + noise * stream.gauss(0, 1)) for x in first]
            tau = kendall_tau(pairs)
            assert tau is not None
            low, high = tau_interval(tau, 9)
            held += low <= true <= high
        assert 0.92 <= held / 400 <= 0.995


def test_few_models_are_counted_and_no_correlation_is_said_so() -> None:
    found = Agreement("answer_likelihood", 2, 1, 0.5, -0.4, 0.9)
    assert agreement_text(found) == (
        "answer_likelihood against the metrics on search items: Kendall's tau 0.50 (95 % interval -0.40 to "
        "0.90), 3 models (2 baselines, 1 finalist)."
    )
    without = Agreement("answer_likelihood", 1, 0, None, None, None)
    assert "no rank correlation, 1 model (1 baseline, 0 finalists)" in agreement_text(without)
    assert agreement_warning(without) is not None
