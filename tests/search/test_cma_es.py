"""CMA-ES alone; what it shares with every sampler is in ``tests/contracts/test_samplers.py``."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from sampler_support import (
    CENTRE,
    SPACES,
    Loss,
    adopted,
    ask,
    away_from,
    plan_for,
    real,
    run,
    sampler_for,
    told,
)

from evomerge.recipe import Dimension
from evomerge.search.samplers import CmaEs, Sampler, Told, Vector, make_sampler


def test_cma_es_learns_from_a_foreign_history() -> None:
    history = [told(g) for g in run(sampler_for("cma_es", "floats", seed=99), 25)]
    went_on = ask(adopted(sampler_for("cma_es", "floats"), history))
    fresh = ask(sampler_for("cma_es", "floats"))
    assert max(CENTRE(v) for v in went_on) < min(CENTRE(v) for v in fresh)


@pytest.mark.parametrize("space", SPACES)
def test_cma_es_finds_a_point_that_random_search_does_not(space: str) -> None:
    def distance(v: Vector) -> float:
        return sum(
            ((c - d.span[0]) / max(d.span[1] - d.span[0], 1) - 0.7) ** 2
            for d, c in zip(SPACES[space], v, strict=True)
        )

    best = {
        name: min(distance(v) for g in run(sampler_for(name, space, population=12), 30, distance) for v in g)
        for name in ("cma_es", "random")
    }
    assert best["cma_es"] <= best["random"]


@pytest.mark.parametrize("space", SPACES)
def test_without_a_lag_pycma_is_asked_and_told_as_by_hand(space: str) -> None:
    """Studies that were begun before there was a lag go on bit for bit."""
    sampler, by_hand = (
        CmaEs(plan_for("cma_es", population=8, seed=3, restarts=0), SPACES[space]) for _ in range(2)
    )
    for _ in range(40):
        if not sampler.population:
            break
        vectors = ask(sampler)
        with by_hand._private.swap_in():
            points = by_hand._strategy.ask()
        assert vectors == [by_hand._outer(p) for p in points]
        losses = [round(CENTRE(v), 2) for v in vectors]
        sampler.tell([Told(v, (-x,)) for v, x in zip(vectors, losses, strict=True)])
        with by_hand._private.swap_in():
            by_hand._strategy.tell(points, losses)
            by_hand._strategy.stop()


def lagged(sampler: Sampler, lag: int, generations: int, loss: Loss) -> list[float]:
    """The losses of a search whose sampler is ``lag`` candidates ahead."""
    size, queue, found = sampler.population, sampler.ask(lag), []
    for _ in range(generations):
        queue += sampler.ask(size)
        oldest, queue = queue[:size], queue[size:]
        found += [loss(v) for v in oldest]
        sampler.tell(told(oldest, loss))
    return found


@pytest.mark.parametrize("generations", [1, 2])
def test_a_lag_costs_cma_es_little(generations: int) -> None:
    """Told where they were drawn, points of one and two generations ago cost 1.1 and 1.6 here; moved all
    the way to the mean of today, 2.2 and 3.5."""

    def best(lag: int) -> float:
        found = []
        for seed in range(8):
            sampler = sampler_for("cma_es", "floats", population=10, seed=seed)
            found.append(math.log10(min(lagged(sampler, lag, 40, away_from(0.5625)))))
        return float(np.mean(found))

    assert best(10 * generations) < best(0) + 0.6


@pytest.mark.parametrize("space", SPACES)
def test_with_a_lag_proposals_are_of_the_space_and_reproducible(space: str) -> None:
    found = []
    for _ in range(2):
        sampler = sampler_for("cma_es", space, population=6)
        found.append([sampler.ask(16)])
        for _ in range(25):
            sampler.tell(told(found[-1][-1][:6], away_from(50.0)))  # against the upper bounds
            found[-1].append([*found[-1][-1][6:], *sampler.ask(6)])
    assert found[0] == found[1]
    for vector in itertools.chain(*found[0]):
        for d, c in zip(SPACES[space], vector, strict=True):
            assert d.span[0] <= c <= d.span[1]
            assert not d.integer or c.is_integer()


def test_cma_es_takes_first_steps_of_one_size_in_every_coordinate() -> None:
    dimensions = [real("x"), Dimension("y", "int", 0, 1000), real("z")]
    plan = plan_for("cma_es", population=400, sigma=0.1, seed=1)
    vectors = np.array(make_sampler(plan, dimensions).ask(400))
    spread = vectors.std(axis=0) / np.array([1, 1000, 1])
    assert spread == pytest.approx([0.1, 0.1, 0.1], rel=0.15)


def test_pycma_draws_from_a_private_stream_where_it_asks_for_the_global_one() -> None:
    from evomerge.search.samplers.cma_es import _LegacyStream

    drawn = []
    for foreign in (1, 2):
        np.random.seed(foreign)  # noqa: NPY002
        private = _LegacyStream([5, 0])
        for _ in range(2):
            with private.swap_in():
                drawn.append(np.random.rand())  # noqa: NPY002
            np.random.rand(foreign)  # noqa: NPY002
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_flat_fitness_is_a_restart_with_twice_the_population() -> None:
    sizes = [len(g) for g in run(sampler_for("cma_es", "floats", population=6), 80, lambda _: 1.0)]
    assert sorted(set(sizes)) == [6, 12, 24, 48][: len(set(sizes))]
    assert len(set(sizes)) > 2
    assert sizes.count(6) > 15  # accuracies are steps: one flat generation is no convergence
    assert sizes == sorted(sizes)


def test_without_a_restart_left_the_search_has_converged() -> None:
    for restarts, sizes in ((0, {6}), (1, {6, 12})):
        sampler = sampler_for("cma_es", "floats", population=6, restarts=restarts)
        asked = run(sampler, 500, lambda _: 1.0)
        assert {len(g) for g in asked[:-1]} == sizes
        assert asked[-1] == []
        assert sampler.population == 0
        assert ask(sampler) == []


def test_more_than_300_dimensions_are_searched_with_a_diagonal_covariance() -> None:
    dimensions = [real(f"x{i}") for i in range(301)]
    sampler = make_sampler(plan_for("cma_es", population=8, seed=2), dimensions)
    run(sampler, 3)
    assert sampler._strategy.opts["CMA_diagonal"] is True  # type: ignore[attr-defined]


def test_proposals_do_not_depend_on_the_number_of_blas_threads() -> None:
    script = (
        "from evomerge.recipe import Dimension\n"
        "from evomerge.search.samplers import CmaEsSettings, SamplerPlan, Told, make_sampler\n"
        "import hashlib\n"
        "s = make_sampler(SamplerPlan(CmaEsSettings(population=16, seed=3)),"
        " [Dimension(str(i), 'float', 0, 1) for i in range(150)])\n"
        "d = hashlib.sha256()\n"
        "for _ in range(40):\n"
        "    X = s.ask(16); d.update(repr(X).encode())\n"
        "    s.tell([Told(v, (-sum((c - .3) ** 2 for c in v),)) for v in X])\n"
        "print(d.hexdigest())\n"
    )
    digests = set()
    for threads in ("1", "2"):
        environment = {"OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": ":".join(p for p in sys.path if p)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_proposing_needs_neither_torch_nor_optuna() -> None:
    script = (
        "import sys\n"
        "from evomerge.recipe import Dimension\n"
        "from evomerge.search.samplers import CmaEsSettings, SamplerPlan, make_sampler\n"
        "make_sampler(SamplerPlan(CmaEsSettings()), [Dimension('x', 'float', 0, 1)]).ask(4)\n"
        "assert not {'torch', 'optuna', 'lm_eval', 'ray', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=True
    )
