"""What is proposed and when, on a real study that the tests write themselves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import note_drift

from evomerge.recipe import Dimension
from evomerge.search.samplers import SAMPLERS, SamplerPlan, Told, Vector, make_sampler
from evomerge.search.stream import DriftError, Proposal, Stream, open_stream
from evomerge.study.manifest import MANIFEST, Manifest
from evomerge.study.study import Study, Trial, versions

DIMENSIONS = [Dimension("x", "float", 0, 1), Dimension("y", "float", 0, 1), Dimension("z", "int", 0, 6)]
TRIALS = 70

History = list[tuple[int, int, Vector]]
Score = Callable[[Vector], float]


def settings_for(sampler: str = "cma_es", **more: object) -> SamplerPlan:
    return SamplerPlan(SAMPLERS[sampler].Settings.model_validate({"population": 6, "seed": 4, **more}))


def score(vector: Vector) -> float:
    return -round(sum((c - 0.3) ** 2 for c in vector), 2)


def flat(_: Vector) -> float:
    return 0.0


class Search:
    """Proposals taken from a stream and recorded in any order."""

    def __init__(
        self, study: Study, lag: int, config: SamplerPlan, trials: int = TRIALS, *, accept: bool = False
    ) -> None:
        self.study, self.lag = study, lag
        if accept:
            note_drift(study, lag, versions())
        self.stream = open_stream(config, DIMENSIONS, lag, trials, study)
        self.running = self.stream.take()
        self.generations: list[list[str]] = []

    def finish(self, proposal: Proposal, score: Score = score) -> None:
        self.running.remove(proposal)
        self.stream.note_recorded(record(self.study, proposal, score))
        while told := self.stream.tell():
            self.generations.append([t.name for t in told])
            self.running += self.stream.take()

    def run(self, chance: random.Random | None = None, most: int = 10**9, score: Score = score) -> None:
        while self.running and most:
            most -= 1
            self.finish(self.running[0] if chance is None else chance.choice(self.running), score)


def record(study: Study, proposal: Proposal, score: Score = score) -> Trial:
    g, i, vector = proposal.generation, proposal.index, proposal.vector
    return study.record(Trial("candidate", f"g{g}.{i}", g, i, f"{g}.{i}", vector, values=(score(vector),)))


def history(study: Study) -> History:
    return [(t.generation, t.index, t.vector) for t in study.candidates()]


def opened(folder: Path, name: str = "study") -> Study:
    return Study.open(f"journal:///{folder}/{name}.log", "s", document={})


def by_definition(lag: int, config: SamplerPlan, trials: int = TRIALS) -> History:
    """The rule, written down once more with nothing going on at the same time; constant population."""
    size, vectors, told = config.settings.population or 0, [], 0
    sampler = make_sampler(config, DIMENSIONS)
    for n in range(trials):
        whole = max(0, (n - lag) // size)  # generations that end at n - lag or before
        while told < whole:
            generation = vectors[told * size : (told + 1) * size]
            sampler.tell([Told(v, (score(v),)) for v in generation])
            told += 1
            vectors += sampler.ask((told + 1) * size + lag - len(vectors))
        if not vectors:
            vectors += sampler.ask(size + lag)
    return [(*divmod(n, size), v) for n, v in enumerate(vectors[:trials])]


@pytest.mark.parametrize("lag", [0, 1, 5, 6, 7, 20])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_stream_is_what_the_rule_says(tmp_path: Path, sampler: str, lag: int) -> None:
    expected = by_definition(lag, settings_for(sampler))
    in_order = opened(tmp_path)
    Search(in_order, lag, settings_for(sampler)).run()
    assert history(in_order) == expected
    mixed = opened(tmp_path, "mixed")
    Search(mixed, lag, settings_for(sampler)).run(random.Random(lag))
    assert history(mixed) == expected


def test_a_lag_changes_what_cma_es_proposes_and_not_what_random_search_does() -> None:
    for sampler in SAMPLERS:
        without, with_lag = by_definition(0, settings_for(sampler)), by_definition(8, settings_for(sampler))
        assert (without == with_lag) == (sampler == "random")


@settings(max_examples=30, deadline=None)
@given(
    sampler=st.sampled_from(tuple(SAMPLERS)),
    lag=st.integers(0, 25),
    population=st.integers(1, 9),
    trials=st.integers(1, 60),
    kills=st.lists(st.integers(0, 30), max_size=4),
    seed=st.integers(0, 10**6),
)
def test_whatever_finishes_first_and_is_killed_when_the_study_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    sampler: str,
    lag: int,
    population: int,
    trials: int,
    kills: list[int],
    seed: int,
) -> None:
    smallest = SAMPLERS[sampler].Settings.smallest_population
    config = settings_for(sampler, population=max(population, smallest))
    with opened(tmp_path_factory.mktemp("stream")) as study:
        chance = random.Random(seed)
        for most in [*kills, 10**9]:
            Search(study, lag, config, trials).run(chance, most)
        assert history(study) == by_definition(lag, config, trials)


@pytest.mark.parametrize("lag", [0, 3, 6, 15])
def test_it_runs_ahead_of_the_oldest_untold_generation_by_the_lag_and_no_further(
    tmp_path: Path, lag: int
) -> None:
    search, chance, furthest = Search(opened(tmp_path), lag, settings_for()), random.Random(1), 0
    while search.running:
        told = 6 * len(search.generations)
        last = max(6 * p.generation + p.index for p in search.running)
        assert last < told + 6 + lag
        furthest = max(furthest, last - told - 5)
        search.finish(chance.choice(search.running))
    assert furthest == lag


def test_scores_of_generations_that_are_not_told_yet_change_nothing(tmp_path: Path) -> None:
    def other(vector: Vector) -> float:
        return -score(vector)

    lag, proposed = 8, []
    for name, later in (("a", score), ("b", other)):
        search = Search(opened(tmp_path, name), lag, settings_for())
        for proposal in search.running[6:]:
            search.finish(proposal, later)
        for proposal in search.running[:6]:
            search.finish(proposal)
        proposed.append([p for p in search.running if p.generation == 2])
    assert len(proposed[0]) == 4  # those of g2 that are not yet drawn when g0 is told
    assert proposed[0] == proposed[1]


# --- convergence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 4, 6, 15])
def test_what_was_drawn_ahead_of_a_restart_is_scored_and_gives_no_update(tmp_path: Path, lag: int) -> None:
    config, trials = settings_for(), 400
    reference = opened(tmp_path)
    first = Search(reference, lag, config, trials)
    first.run(score=flat)
    sizes = [len(g) for g in reference.generations()]
    assert 12 in sizes
    assert 0 < sum(n not in (6, 12, 24, 48) for n in sizes[:-1]) <= 3 or not lag % 6
    study, chance = opened(tmp_path, "killed"), random.Random(lag)
    for most in [3, 50, 90, 7, 60, 10**9]:
        Search(study, lag, config, trials).run(chance, most, flat)
    assert history(study) == history(reference)
    assert Counter(n for g in first.generations for n in g) <= Counter(t.name for t in study.candidates())


@pytest.mark.parametrize("lag", [0, 4, 15])
def test_a_stream_that_has_converged_ends_with_what_is_in_flight(tmp_path: Path, lag: int) -> None:
    config, trials = settings_for(restarts=0), 400
    search = Search(opened(tmp_path), lag, config, trials)
    search.run(random.Random(2), score=flat)
    assert search.stream.converged
    converged = len(search.study.candidates())
    assert (converged - lag) % 6 == 0
    assert converged < trials
    again = Search(search.study, lag, config, trials)
    assert again.running == []
    assert again.stream.converged
    cut = Search(opened(tmp_path, "cut"), lag, config, converged)
    cut.run(score=flat)
    assert not cut.stream.converged  # the budget ended it at the same moment


# --- what is recorded and what is proposed -----------------------------------------------------------------


def altered(folder: Path, proposals: list[Proposal], name: str = "altered") -> Study:
    study = opened(folder, name)
    for proposal in proposals:
        record(study, proposal)
    return study


@pytest.mark.parametrize("lag", [0, 8])
def test_a_change_that_rounding_does_not_make_is_drift(tmp_path: Path, lag: int) -> None:
    first = Search(opened(tmp_path), lag, settings_for()).running
    x, *rest = first[4].vector
    changed = replace(first[4], vector=(x + 1e-5, *rest))
    with pytest.raises(DriftError, match=r"another g0\.4 than"):
        Search(altered(tmp_path, [first[0], changed]), lag, settings_for())


def test_a_generation_of_another_size_is_drift(tmp_path: Path) -> None:
    study = opened(tmp_path)
    Search(study, 0, settings_for(), trials=13).run()
    proposals = [Proposal(*place) for place in history(study)]
    short = [p for p in proposals if p.generation or p.index < 5]
    with pytest.raises(DriftError, match=r"another g0\.5 than"):
        Search(altered(tmp_path, short), 0, settings_for())
    long = [*proposals[:6], replace(proposals[6], generation=0, index=6)]
    with pytest.raises(DriftError, match=r"another g0\.6 than"):
        Search(altered(tmp_path, long, "long"), 0, settings_for())


def test_a_study_that_goes_on_where_the_sampler_has_converged_is_drift(tmp_path: Path) -> None:
    study = opened(tmp_path)
    search = Search(study, 0, settings_for(), 400)
    search.run(score=flat)
    with pytest.raises(DriftError, match=r"another g\d+\.0 than"):
        Search(study, 0, settings_for(restarts=0), 400)


@pytest.mark.parametrize("converges", [False, True])
@pytest.mark.parametrize("lag", [0, 8])
@pytest.mark.parametrize("before", [20, 21, 150])
def test_after_an_accepted_drift_the_study_is_the_same_however_often_it_is_killed(
    tmp_path: Path, before: int, lag: int, converges: bool
) -> None:
    loss = flat if before > 100 else score
    now = settings_for(seed=5, population=8, restarts=0 if converges else None)
    found = []
    for name, stops in (("a", [10**9]), ("b", [0, 1, 5, 0, 9, 10**9])):
        study = opened(tmp_path, name)
        Search(study, lag, settings_for(), 200).run(random.Random(3), before, loss)
        old = history(study)
        with pytest.raises(DriftError, match="successor"):
            Search(study, lag, now, 200)
        chance = random.Random(8)
        for k, most in enumerate(stops):
            Search(study, lag, now, 200, accept=k == 0).run(chance, most, loss)
        assert set(old) <= set(history(study))
        assert len(study.accepted_drifts) == 1
        found.append(history(study))
    assert found[0] == found[1]
    assert len(found[0]) >= min(200, before)


def test_a_note_of_a_drift_from_before_there_was_a_lag_can_be_read(tmp_path: Path) -> None:
    study = opened(tmp_path)
    drift = {"generations": 3, "candidates": 15, "versions": {}}
    study._set_manifest(Manifest.read({MANIFEST: {**study._manifest.stored(), "drifts": [drift]}}, "here"))
    assert [d.closed for d in study.accepted_drifts] == [2]


def test_a_stream_needs_no_study_to_hold_anything(tmp_path: Path) -> None:
    stream = Stream(make_sampler(settings_for(), DIMENSIONS), 4, 8, opened(tmp_path))
    assert [(p.generation, p.index) for p in stream.take()] == [*((0, i) for i in range(6)), (1, 0), (1, 1)]
    assert stream.take() == []
    assert (stream.generation, stream.population) == (0, 6)
    assert stream.tell() == ()
    assert not stream.converged
