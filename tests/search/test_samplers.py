from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import ExperimentError
from evomerge.recipe import Dimension
from evomerge.search.samplers import SAMPLERS, Sampler, SamplerSettings, Vector, make_sampler
from evomerge.search.samplers.cma_es import CmaEs

Loss = Callable[[Vector], float]


def real(name: str, *, log: bool = False) -> Dimension:
    return Dimension(name, "float", 0.1, 2.0, log=log)


def whole(name: str, high: int = 8) -> Dimension:
    return Dimension(name, "int", 2, high)


def choice(name: str, count: int) -> Dimension:
    return Dimension(name, "choice", 0, count - 1, choices=tuple("abcdefgh"[:count]))


SPACES: dict[str, list[Dimension]] = {
    "one float": [real("x")],
    "one int": [whole("x")],
    "one choice": [choice("x", 2)],
    "floats": [real(f"x{i}") for i in range(5)],
    "ints": [whole(f"x{i}") for i in range(4)],
    "mixed": [real("x"), whole("y"), choice("z", 3), real("u", log=True), choice("one", 1)],
}


def away_from(target: float) -> Loss:
    return lambda v: sum((c - target) ** 2 for c in v)


CENTRE = away_from(0.3)


def ask(sampler: Sampler) -> list[Vector]:
    """A whole generation."""
    return sampler.ask(sampler.population)


def run(sampler: Sampler, generations: int, loss: Loss = CENTRE) -> list[list[Vector]]:
    asked = []
    for _ in range(generations):
        vectors = ask(sampler)
        asked.append(vectors)
        if not vectors:
            break
        sampler.tell(vectors, [loss(v) for v in vectors])
    return asked


def sampler_for(name: str, space: str = "mixed", **more: object) -> Sampler:
    return make_sampler(SamplerSettings(name, **{"seed": 5, **more}), SPACES[space])  # type: ignore[arg-type]


def corners(dimensions: Sequence[Dimension]) -> tuple[Vector, ...]:
    return tuple(tuple(d.span[side] for d in dimensions) for side in (0, 1))


# --- what every sampler promises ---------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_settings_and_history_give_equal_proposals(name: str, space: str) -> None:
    first, second = (run(sampler_for(name, space), 25) for _ in range(2))
    assert first == second
    assert run(sampler_for(name, space, seed=6), 1) != first[:1]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_coordinate_lies_in_its_span_and_is_whole_where_only_whole_ones_count(
    name: str, space: str
) -> None:
    for target in (-5.0, 0.3, 50.0):  # pulls against the lower bounds, to the middle, against the upper ones
        for vectors in run(sampler_for(name, space), 20, away_from(target)):
            for vector, (dimension, i) in itertools.product(vectors, zip(SPACES[space], itertools.count())):
                low, high = dimension.span
                assert low <= vector[i] <= high
                assert not dimension.integer or vector[i].is_integer()
                assert dimension.decode(vector[i]) is not None
                assert type(vector[i]) is float


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_population_is_the_size_of_the_next_generation(name: str) -> None:
    sampler = sampler_for(name, population=9)
    for _ in range(5):
        vectors = ask(sampler)
        assert len(vectors) == sampler.population == 9
        sampler.tell(vectors, [CENTRE(v) for v in vectors])


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_asked_for_before_a_telling_can_be_told_later(name: str) -> None:
    sampler = sampler_for(name, population=6)
    assert sampler.ask(0) == []
    ahead = sampler.ask(16)
    assert len(set(ahead)) == len(ahead) == 16
    sampler.tell(ahead[:6], [CENTRE(v) for v in ahead[:6]])
    more = sampler.ask(2)
    second = ahead[6:12]
    sampler.tell(second, [CENTRE(v) for v in second])
    third = [*ahead[12:], *more]
    with pytest.raises(ValueError, match="told other vectors"):
        sampler.tell(third[::-1], [0.0] * 6)
    sampler.tell(third, [CENTRE(v) for v in third])
    with pytest.raises(ValueError, match="or told twice"):
        sampler.tell(third, [CENTRE(v) for v in third])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_starts_stand_first_in_the_first_generation_bit_for_bit(name: str, space: str) -> None:
    starts = corners(SPACES[space])
    vectors = ask(sampler_for(name, space, population=8, starts=starts))
    assert tuple(vectors[:2]) == starts


@pytest.mark.parametrize("name", SAMPLERS)
def test_starts_anywhere_in_the_space_come_back_bit_for_bit(name: str) -> None:
    stream = np.random.default_rng(4)
    drawn = stream.random((30, 5)).tolist() + stream.choice([0.0, 1.0, 0.999999, 1e-9], (30, 5)).tolist()
    starts = tuple(tuple(row) for row in drawn)
    vectors = ask(sampler_for(name, "floats", population=120, starts=starts))
    assert tuple(vectors[:60]) == starts


@pytest.mark.parametrize("name", SAMPLERS)
def test_starts_fill_at_most_half_of_a_generation(name: str) -> None:
    starts = tuple((0.1 * i, 3.0, 0.0, 0.5, 0.0) for i in range(1, 9))
    vectors = ask(sampler_for(name, population=6, starts=starts))
    assert tuple(vectors[:3]) == starts[:3]
    assert vectors[3] not in starts


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("told", ["other vectors", "nan", "infinity", "too few", "twice"])
def test_wrong_tellings_are_refused(name: str, told: str) -> None:
    sampler = sampler_for(name)
    vectors = ask(sampler)
    losses = [1.0 * i for i in range(len(vectors))]
    if told == "other vectors":
        vectors = vectors[::-1]
    elif told in ("nan", "infinity"):
        losses[1] = math.nan if told == "nan" else math.inf
    elif told == "too few":
        losses = losses[:-1]
    else:
        sampler.tell(vectors, losses)
    with pytest.raises(ValueError, match="told"):
        sampler.tell(vectors, losses)


@pytest.mark.parametrize("name", SAMPLERS)
def test_telling_changes_neither_argument(name: str) -> None:
    sampler = sampler_for(name)
    vectors = ask(sampler)
    losses = [float(i % 3) for i in range(len(vectors))]
    before = list(vectors), list(losses)
    sampler.tell(vectors, losses)
    assert (vectors, losses) == before


@pytest.mark.parametrize("space", ["mixed", "ints", "floats"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_foreign_draws_change_no_proposal_and_proposals_change_no_foreign_draw(name: str, space: str) -> None:
    quiet = run(sampler_for(name, space), 30)
    np.random.seed(1)  # noqa: NPY002
    undisturbed = np.random.rand(40)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    sampler, disturbed, drawn = sampler_for(name, space), [], []
    for _ in range(30):
        drawn.append(np.random.rand())  # noqa: NPY002
        vectors = ask(sampler)
        disturbed.append(vectors)
        sampler.tell(vectors, [CENTRE(v) for v in vectors])
    assert disturbed == quiet
    assert drawn == list(undisturbed[:30])


# --- a history that the sampler would not have proposed ----------------------------------------------------


def adopted(sampler: Sampler, history: Sequence[tuple[Sequence[Vector], Sequence[float]]]) -> Sampler:
    for vectors, losses in history:
        sampler.ask(len(vectors))
        sampler.adopt(vectors)
        sampler.tell(vectors, losses)
    return sampler


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_after_an_adopted_history_what_follows_is_a_function_of_it(name: str, space: str) -> None:
    foreign = run(sampler_for(name, space, seed=99, population=8), 9)
    history = [(g, [CENTRE(v) for v in g]) for g in foreign]
    first, second = (run(adopted(sampler_for(name, space, population=8), history), 6) for _ in range(2))
    assert first == second
    assert first != run(sampler_for(name, space, population=8), 6)


def test_cma_es_learns_from_a_foreign_history() -> None:
    history = [(g, [CENTRE(v) for v in g]) for g in run(sampler_for("cma_es", "floats", seed=99), 25)]
    went_on = ask(adopted(sampler_for("cma_es", "floats"), history))
    fresh = ask(sampler_for("cma_es", "floats"))
    assert max(CENTRE(v) for v in went_on) < min(CENTRE(v) for v in fresh)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(SAMPLERS),
    space=st.sampled_from(sorted(SPACES)),
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6),
    edge=st.booleans(),
)
def test_any_history_of_points_of_the_space_can_be_adopted(
    name: str, space: str, seed: int, sizes: list[int], edge: bool
) -> None:
    stream = np.random.default_rng(seed)

    def point() -> Vector:
        drawn = []
        for d in SPACES[space]:
            low, high = d.span
            share = stream.choice([0.0, 1.0]) if edge else stream.random()
            c = low + (high - low) * share
            drawn.append(float(round(c)) if d.integer else float(c))
        return tuple(drawn)

    history = [([point() for _ in range(n)], stream.random(n).tolist()) for n in sizes]
    first, second = (run(adopted(sampler_for(name, space), history), 3) for _ in range(2))
    assert first == second
    for vector in itertools.chain(*first):
        for d, c in zip(SPACES[space], vector, strict=True):
            assert d.span[0] <= c <= d.span[1]


def test_a_sampler_that_has_converged_takes_what_is_recorded_all_the_same() -> None:
    sampler = sampler_for("cma_es", "floats", population=6, restarts=0)
    run(sampler, 500, lambda _: 1.0)
    assert sampler.ask(6) == []
    adopted(sampler, [([(0.1,) * 5, (0.9,) * 5], [0.0, 1.0])])
    assert sampler.ask(6) == []


# --- CMA-ES ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_cma_es_finds_a_point_that_random_search_does_not(space: str) -> None:
    def distance(v: Vector) -> float:
        return sum(
            ((c - d.span[0]) / max(d.span[1] - d.span[0], 1) - 0.7) ** 2
            for d, c in zip(SPACES[space], v, strict=True)
        )

    best = {
        name: min(distance(v) for g in run(sampler_for(name, space, population=12), 30, distance) for v in g)
        for name in SAMPLERS
    }
    assert best["cma_es"] <= best["random"]


@pytest.mark.parametrize("space", SPACES)
def test_without_a_lag_pycma_is_asked_and_told_as_by_hand(space: str) -> None:
    """Studies that were begun before there was a lag go on bit for bit."""
    sampler, by_hand = (
        CmaEs(SamplerSettings(population=8, seed=3, restarts=0), SPACES[space]) for _ in range(2)
    )
    for _ in range(40):
        if not sampler.population:
            break
        vectors = ask(sampler)
        with by_hand._private.installed():
            points = by_hand._strategy.ask()
        assert vectors == [by_hand._outer(p) for p in points]
        losses = [round(CENTRE(v), 2) for v in vectors]
        sampler.tell(vectors, losses)
        with by_hand._private.installed():
            by_hand._strategy.tell(points, losses)
            by_hand._strategy.stop()


def lagged(sampler: Sampler, lag: int, generations: int, loss: Loss) -> list[float]:
    """The losses of a search whose sampler is ``lag`` candidates ahead."""
    size, queue, found = sampler.population, sampler.ask(lag), []
    for _ in range(generations):
        queue += sampler.ask(size)
        told, queue = queue[:size], queue[size:]
        found += [loss(v) for v in told]
        sampler.tell(told, found[-size:])
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
            told = found[-1][-1][:6]
            sampler.tell(told, [away_from(50.0)(v) for v in told])  # against the upper bounds
            found[-1].append([*found[-1][-1][6:], *sampler.ask(6)])
    assert found[0] == found[1]
    for vector in itertools.chain(*found[0]):
        for d, c in zip(SPACES[space], vector, strict=True):
            assert d.span[0] <= c <= d.span[1]
            assert not d.integer or c.is_integer()


def test_cma_es_takes_first_steps_of_one_size_in_every_coordinate() -> None:
    dimensions = [real("x"), Dimension("y", "int", 0, 1000), real("z")]
    settings = SamplerSettings("cma_es", 400, sigma=0.1, seed=1)
    vectors = np.array(make_sampler(settings, dimensions).ask(400))
    spread = vectors.std(axis=0) / np.array([1, 1000, 1])
    assert spread == pytest.approx([0.1, 0.1, 0.1], rel=0.15)


def test_pycma_draws_from_a_private_stream_where_it_asks_for_the_global_one() -> None:
    from evomerge.search.samplers.cma_es import _LegacyStream

    drawn = []
    for foreign in (1, 2):
        np.random.seed(foreign)  # noqa: NPY002
        private = _LegacyStream([5, 0])
        for _ in range(2):
            with private.installed():
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
    sampler = make_sampler(SamplerSettings("cma_es", 8, seed=2), dimensions)
    run(sampler, 3)
    assert sampler._strategy.opts["CMA_diagonal"] is True  # type: ignore[attr-defined]


def test_proposals_do_not_depend_on_the_number_of_blas_threads() -> None:
    script = (
        "from evomerge.recipe import Dimension\n"
        "from evomerge.search.samplers import make_sampler, SamplerSettings\n"
        "import hashlib\n"
        "s = make_sampler(SamplerSettings(population=16, seed=3),"
        " [Dimension(str(i), 'float', 0, 1) for i in range(150)])\n"
        "d = hashlib.sha256()\n"
        "for _ in range(40):\n"
        "    X = s.ask(16); d.update(repr(X).encode())\n"
        "    s.tell(X, [sum((c - .3) ** 2 for c in v) for v in X])\n"
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
        "from evomerge.search.samplers import make_sampler, SamplerSettings\n"
        "make_sampler(SamplerSettings(), [Dimension('x', 'float', 0, 1)]).ask(4)\n"
        "assert not {'torch', 'optuna', 'lm_eval', 'ray', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=True
    )


# --- mistakes of users -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "cma"}, r"there is no sampler 'cma'\. Did you mean 'cma_es'\?"),
        ({"population": 3}, "at least 4, got 3"),
        ({"sigma": 0.0}, "got 0.0"),
        ({"sigma": math.nan}, "got nan"),
        ({"sigma": 1.5}, "got 1.5"),
        ({"seed": -1}, "must not be negative, got -1"),
        ({"restarts": -1}, "must not be negative, got -1"),
        ({"starts": ((0.5, 3.0, 0.0, 0.5),)}, "no point of the search space"),
        ({"starts": ((1.3, 3.0, 0.0, 0.5, 0.0),)}, "no point of the search space"),
        ({"starts": ((0.5, 3.5, 0.0, 0.5, 0.0),)}, "no point of the search space"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        make_sampler(SamplerSettings(**changed), SPACES["mixed"])  # type: ignore[arg-type]


@pytest.mark.parametrize("dimensions", [[], [choice("x", 1)]])
def test_a_space_with_a_single_point_is_refused(dimensions: list[Dimension]) -> None:
    with pytest.raises(ExperimentError, match="nothing to search"):
        make_sampler(SamplerSettings(), dimensions)
