"""Small spaces of every kind, and searches on them without a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evomerge.recipe import Dimension
from evomerge.search.samplers import SAMPLERS, Sampler, SamplerPlan, Told, Vector, make_sampler

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


def plan_for(name: str, starts: tuple[Vector, ...] = (), **settings: object) -> SamplerPlan:
    return SamplerPlan(SAMPLERS[name].Settings.model_validate({"seed": 5, **settings}), starts)


def sampler_for(name: str, space: str = "mixed", starts: tuple[Vector, ...] = (), **more: object) -> Sampler:
    return make_sampler(plan_for(name, starts, **more), SPACES[space])


def told(vectors: Sequence[Vector], loss: Loss = CENTRE) -> list[Told]:
    return [Told(v, (-loss(v),)) for v in vectors]


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
        sampler.tell(told(vectors, loss))
    return asked


def adopted(sampler: Sampler, history: Sequence[Sequence[Told]]) -> Sampler:
    """The sampler after a history that it would not have proposed."""
    for generation in history:
        sampler.ask(len(generation))
        sampler.adopt([t.vector for t in generation])
        sampler.tell(generation)
    return sampler
