"""What every registered sampler promises: those of evomerge, and those that a package adds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_support import CENTRE, SPACES, adopted, ask, away_from, plan_for, run, sampler_for, told

from evomerge.recipe import Dimension
from evomerge.search.samplers import SAMPLERS, Sampler, Told, Vector, first_population, make_sampler

NAMES = tuple(SAMPLERS)
CASES = [
    pytest.param(name, space, id=f"{name}-{space}")
    for name in NAMES
    for space, dimensions in SPACES.items()
    if {d.kind for d in dimensions} <= SAMPLERS[name].kinds
]
"""Each sampler with each space that it claims to handle."""


def spaces_of(name: str) -> list[str]:
    return [space for n, space in (case.values for case in CASES) if n == name]  # type: ignore[misc]


def assert_lie_in(vectors: Sequence[Vector], dimensions: Sequence[Dimension]) -> None:
    for vector in vectors:
        assert len(vector) == len(dimensions)
        for coordinate, dimension in zip(vector, dimensions, strict=True):
            low, high = dimension.span
            assert low <= coordinate <= high  # false of NaN
            assert not dimension.integer or coordinate.is_integer()
            assert dimension.decode(coordinate) is not None
            assert type(coordinate) is float


def points(dimensions: Sequence[Dimension], count: int, seed: int, *, edge: bool = False) -> list[Vector]:
    """Points of the space; with ``edge``, corners of it."""
    stream = np.random.default_rng(seed)

    def coordinate(d: Dimension) -> float:
        share = stream.choice([0.0, 1.0]) if edge else stream.random()
        c = d.span[0] + (d.span[1] - d.span[0]) * share
        return float(round(c)) if d.integer else float(c)

    return [tuple(coordinate(d) for d in dimensions) for _ in range(count)]


# --- declarations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_claims_kinds_that_exist_and_spaces_here_have_each_of_them(name: str) -> None:
    claimed = SAMPLERS[name].kinds
    assert claimed <= {"float", "int", "choice"}
    assert claimed == {d.kind for space in spaces_of(name) for d in SPACES[space]}


@pytest.mark.parametrize(("name", "space"), CASES)
def test_the_default_population_is_legal_and_is_what_the_first_generation_has(name: str, space: str) -> None:
    sampler = sampler_for(name, space)
    assert sampler.population == first_population(plan_for(name).settings, SPACES[space])
    assert sampler.population >= SAMPLERS[name].Settings.smallest_population
    assert len(ask(sampler)) == sampler.population


# --- proposals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "space"), CASES)
def test_proposals_are_a_function_of_settings_and_history(name: str, space: str) -> None:
    first, second = (run(sampler_for(name, space), 25) for _ in range(2))
    assert first == second
    assert run(sampler_for(name, space, seed=6), 1) != first[:1]


@pytest.mark.parametrize(("name", "space"), CASES)
def test_every_proposal_is_a_point_of_the_space(name: str, space: str) -> None:
    for target in (-5.0, 0.3, 50.0):  # pulls against the lower bounds, to the middle, against the upper ones
        for vectors in run(sampler_for(name, space), 20, away_from(target)):
            assert_lie_in(vectors, SPACES[space])


@pytest.mark.parametrize(("name", "space"), CASES)
def test_the_smallest_population_is_searched_with(name: str, space: str) -> None:
    smallest = SAMPLERS[name].Settings.smallest_population
    generations = run(sampler_for(name, space, population=smallest), 30)
    assert len(generations[0]) == smallest
    for vectors in generations:
        assert_lie_in(vectors, SPACES[space])


@pytest.mark.parametrize("name", NAMES)
def test_the_population_is_the_size_of_the_next_generation(name: str) -> None:
    sampler = sampler_for(name, population=9)
    for _ in range(5):
        vectors = ask(sampler)
        assert len(vectors) == sampler.population == 9
        sampler.tell(told(vectors))


@pytest.mark.parametrize("name", NAMES)
def test_candidates_that_are_asked_for_ahead_can_be_told_later(name: str) -> None:
    sampler = sampler_for(name, population=6)
    assert sampler.ask(0) == []
    ahead = sampler.ask(16)
    assert len(set(ahead)) == len(ahead) == 16
    sampler.tell(told(ahead[:6]))
    more = sampler.ask(2)
    sampler.tell(told(ahead[6:12]))
    third = [*ahead[12:], *more]
    with pytest.raises(ValueError, match="told other vectors"):
        sampler.tell(told(third[::-1]))
    sampler.tell(told(third))
    with pytest.raises(ValueError, match="or told twice"):
        sampler.tell(told(third))


@pytest.mark.parametrize("name", NAMES)
def test_after_convergence_nothing_is_proposed_and_history_can_still_be_adopted(name: str) -> None:
    fields = {"population": 6, "restarts": 0}
    known = {k: v for k, v in fields.items() if k in SAMPLERS[name].Settings.model_fields}
    sampler = sampler_for(name, "floats", **known)
    run(sampler, 500, lambda _: 1.0)
    if sampler.population:  # this one never converges
        assert len(ask(sampler)) == sampler.population
        return
    assert sampler.ask(6) == []
    adopted(sampler, [[Told((0.1,) * 5, (0.0,)), Told((0.9,) * 5, (1.0,))]])
    assert sampler.ask(6) == []


# --- starts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "space"), CASES)
def test_starts_stand_first_in_the_first_generation_bit_for_bit(name: str, space: str) -> None:
    starts = tuple(tuple(d.span[side] for d in SPACES[space]) for side in (0, 1))
    vectors = ask(sampler_for(name, space, population=8, starts=starts))
    assert tuple(vectors[:2]) == starts


@pytest.mark.parametrize("name", NAMES)
def test_starts_anywhere_in_the_space_come_back_bit_for_bit(name: str) -> None:
    stream = np.random.default_rng(4)
    drawn = stream.random((30, 5)).tolist() + stream.choice([0.0, 1.0, 0.999999, 1e-9], (30, 5)).tolist()
    starts = tuple(tuple(row) for row in drawn)
    vectors = ask(sampler_for(name, "floats", population=120, starts=starts))
    assert tuple(vectors[:60]) == starts


@pytest.mark.parametrize("name", NAMES)
def test_starts_fill_at_most_half_of_a_generation(name: str) -> None:
    starts = tuple((0.1 * i, 3.0, 0.0, 0.5, 0.0) for i in range(1, 9))
    vectors = ask(sampler_for(name, population=6, starts=starts))
    assert tuple(vectors[:3]) == starts[:3]
    assert vectors[3] not in starts


# --- replay ------------------------------------------------------------------------------------------------


def searched(sampler: Sampler, lag: int, generations: int, recorded: Sequence[Told] = ()) -> list[Told]:
    """A search that asks ``lag`` candidates ahead; where ``recorded`` has a candidate, it is not scored."""
    log: list[Told] = []
    queue: list[Vector] = []
    for _ in range(generations):
        size, run_ = sampler.population, sampler.run
        queue += sampler.ask(size + lag - len(queue))
        if not size:
            break
        for vector in queue[:size]:
            n = len(log)
            failed = n % 7 == 3
            scored = Told(vector, () if failed else (-round(CENTRE(vector), 2),), failed)
            log.append(recorded[n] if n < len(recorded) else scored)
        sampler.tell(log[-size:])
        queue = queue[size:] if sampler.run == run_ else []
    return log


@pytest.mark.parametrize("lag", [0, 7])
@pytest.mark.parametrize(("name", "space"), CASES)
def test_a_sampler_that_is_rebuilt_from_the_log_goes_on_as_if_never_killed(
    name: str, space: str, lag: int
) -> None:
    whole = searched(sampler_for(name, space, population=6), lag, 20)
    for killed_after in (6, 42, 75):
        again = searched(sampler_for(name, space, population=6), lag, 20, whole[:killed_after])
        assert again == whole


@pytest.mark.parametrize(("name", "space"), CASES)
def test_after_an_adopted_history_what_follows_is_a_function_of_it(name: str, space: str) -> None:
    history = [told(g) for g in run(sampler_for(name, space, seed=99, population=8), 9)]
    first, second = (run(adopted(sampler_for(name, space, population=8), history), 6) for _ in range(2))
    assert first == second
    assert first != run(sampler_for(name, space, population=8), 6)


@settings(max_examples=40, deadline=None)
@given(
    case=st.sampled_from([case.values for case in CASES]),
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6),
    edge=st.booleans(),
)
def test_any_history_of_points_of_the_space_can_be_adopted(
    case: tuple[str, str], seed: int, sizes: list[int], edge: bool
) -> None:
    name, space = case
    stream = np.random.default_rng(seed)
    history = [
        [Told(v, (float(stream.random()),)) for v in points(SPACES[space], n, seed + i, edge=edge)]
        for i, n in enumerate(sizes)
    ]
    first, second = (run(adopted(sampler_for(name, space), history), 3) for _ in range(2))
    assert first == second
    assert_lie_in(list(itertools.chain(*first)), SPACES[space])


# --- tellings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["one", "most", "all of a generation", "all"])
@pytest.mark.parametrize(("name", "space"), CASES)
def test_whatever_fails_proposals_stay_in_the_space(name: str, space: str, failing: str) -> None:
    sampler = sampler_for(name, space, population=6)
    fails = {
        "one": lambda _, i: i == 2,
        "most": lambda _, i: i != 2,
        "all of a generation": lambda g, _: g == 1,
        "all": lambda *_: True,
    }[failing]
    for generation in range(12):
        vectors = ask(sampler)
        assert_lie_in(vectors, SPACES[space])
        scored = told(vectors)
        sampler.tell(
            [Told(t.vector, (), failed=True) if fails(generation, i) else t for i, t in enumerate(scored)]
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["other vectors", "nan", "infinity", "no value", "twice"])
def test_wrong_tellings_are_refused(name: str, wrong: str) -> None:
    sampler = sampler_for(name)
    generation = told(ask(sampler))
    values = {"nan": (math.nan,), "infinity": (math.inf,), "no value": ()}
    if wrong == "other vectors":
        generation = generation[::-1]
    elif wrong == "twice":
        sampler.tell(generation)
    else:
        generation[1] = Told(generation[1].vector, values[wrong])
    with pytest.raises(ValueError, match="told"):
        sampler.tell(generation)


@pytest.mark.parametrize("name", NAMES)
def test_several_values_are_taken_or_refused_as_the_sampler_says(name: str) -> None:
    sampler, most = sampler_for(name), SAMPLERS[name].most_objectives
    generation = [Told(v, (CENTRE(v), 1.0)) for v in ask(sampler)]
    if most is None or most >= 2:
        sampler.tell(generation)
        assert ask(sampler)
    else:
        with pytest.raises(ValueError, match="told 2 values"):
            sampler.tell(generation)


@pytest.mark.parametrize("name", NAMES)
def test_telling_does_not_change_its_argument(name: str) -> None:
    sampler = sampler_for(name)
    generation = told(ask(sampler), lambda v: round(v[0]))
    before = list(generation)
    sampler.tell(generation)
    assert generation == before


@pytest.mark.parametrize("space", ["mixed", "ints", "floats"])
@pytest.mark.parametrize("name", NAMES)
def test_the_global_random_stream_is_neither_read_nor_changed(name: str, space: str) -> None:
    if space not in spaces_of(name):
        pytest.skip("it does not claim this kind of space")
    quiet = run(sampler_for(name, space), 30)
    np.random.seed(1)  # noqa: NPY002
    undisturbed = np.random.rand(40)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    sampler, disturbed, drawn = make_sampler(plan_for(name), SPACES[space]), [], []
    for _ in range(30):
        drawn.append(np.random.rand())  # noqa: NPY002
        vectors = ask(sampler)
        disturbed.append(vectors)
        sampler.tell(told(vectors))
    assert disturbed == quiet
    assert drawn == list(undisturbed[:30])
