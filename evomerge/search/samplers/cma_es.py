"""CMA-ES through pycma (verified with 4.5), with restarts of growing population (IPOP).

Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv:1604.00772); Auger and Hansen, "A Restart CMA
Evolution Strategy With Increasing Population Size" (CEC 2005).

Properties of pycma that this module works around:
    - its integer code draws from NumPy's global generator: every call runs on a private global state;
    - it refuses one dimension: a hidden second one is added;
    - flat fitness ends it after one generation, though accuracies are steps: those limits are raised;
    - a bound that is not an interval is an error: dimensions with one value stay outside;
    - its mean is the weighted mean of what it is told, so points drawn from an older state (a lag) would
      pull it back to where it was then: they are moved first (``_move_halfway``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.recipe import Dimension
from evomerge.search.samplers.interface import (
    Sampler,
    SamplerPlan,
    SamplerSettings,
    Told,
    Vector,
    Whole,
    check_told,
    free_dimensions,
    losses,
)
from evomerge.search.samplers.registry import sampler

__all__ = ["CmaEs", "CmaEsSettings"]

Points = NDArray[np.float64]

DIAGONAL_ABOVE = 300
"""Dimensions from which the covariance is diagonal: a full matrix costs 39 ms a generation at 1000, and takes
more evaluations to learn than a search has."""

FLAT_GENERATIONS = 20
"""Generations without a difference between the best and the 75 % quantile before a restart."""

SMALLEST_STEP = 1e-4
"""Of a span. A run whose steps are smaller has converged: below, merged 16-bit weights hardly differ."""

PADDED = 2
"""Dimensions that pycma needs."""


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A candidate that was drawn and not told yet, and the state it was drawn from (``None`` if adopted)."""

    vector: Vector
    point: Points
    """As pycma handed it out."""
    state: int | None
    """How many generations pycma had been told."""
    mean: Points | None = None
    step: Points | None = None
    """From the mean to the point, both before pycma's map into the bounds, in units of the step size."""


class CmaEsSettings(SamplerSettings):
    """Settings of ``cma_es``."""

    smallest_population: ClassVar[int] = 4  # fewer give no ranking to update from

    population: Whole | None = Field(
        default=None,
        description="Candidates in a generation, at least 4.",
        json_schema_extra={"if_none": "4 + 3 ln(dimensions)"},
    )
    sigma: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.25, description="First step size, as a share of each hole's range."
    )
    restarts: Annotated[Whole, Field(ge=0)] | None = Field(
        default=None,
        description="Restarts with twice the population after convergence.",
        json_schema_extra={"if_none": "as many as fit"},
    )


@sampler("cma_es")
class CmaEs(Sampler):
    """Each float runs over [0, 1], each int and choice over its own numbers (``integer_variables``).

    The first step size is ``sigma`` of the span in every coordinate. The first run starts at the first of
    ``starts`` (the middle where there is none), each restart at a random point with twice the population.
    """

    Settings: ClassVar[type[CmaEsSettings]] = CmaEsSettings

    def __init__(self, plan: SamplerPlan, dimensions: Sequence[Dimension]) -> None:
        self._settings = settings = CmaEsSettings.model_validate(plan.settings)
        self._starts = plan.starts
        self._dimensions = tuple(dimensions)
        self._free = free_dimensions(dimensions)
        self._first_population = settings.population or self.default_population(len(self._free))
        self._private = _LegacyStream([settings.seed, 0])
        self._asked: list[_Drawn] = []
        self._injected: tuple[Vector, ...] = ()
        self._strategy: Any = None
        self._has_drawn = False
        self._start_run()

    @staticmethod
    def default_population(dimensions: int) -> int:
        """4 + 3 ln n (tutorial, eq. 48)."""
        return 4 + int(3 * np.log(max(dimensions, 1)))

    @property
    def population(self) -> int:
        """Candidates of a generation of this run; 0 when the search has converged."""
        return 0 if self._strategy is None else self._first_population * 2**self.run

    def ask(self, count: int) -> list[Vector]:
        """``count`` more candidates; none when no restart is left."""
        strategy = self._strategy
        if strategy is None or count < 1:  # pycma takes none for a whole population
            return []
        with self._private.swap_in():
            points = strategy.ask(count)
        self._has_drawn = True
        vectors = [self._outer(point) for point in points]
        # pycma hands injections back first, but off by a rounding: what counts is the start itself
        vectors[: len(self._injected)] = self._injected[: len(vectors)]
        self._injected = ()
        mean = strategy.mean.copy()
        drawn = zip(vectors, points, strategy.ary, strict=True)
        self._asked += [_Drawn(v, p, strategy.countiter, mean, step.copy()) for v, p, step in drawn]
        return vectors

    def adopt(self, vectors: Sequence[Vector]) -> None:
        """Replaces those asked for longest ago by ``vectors``; pycma also updates from foreign points."""
        foreign = [_Drawn(tuple(v), np.array(self._inner(v)), None) for v in vectors]
        self._asked[: len(vectors)] = foreign

    def restate(self, vectors: Sequence[Vector]) -> None:
        """Replaces those asked for longest ago by ``vectors``; pycma updates from the points it drew."""
        drawn = self._asked[: len(vectors)]
        self._asked[: len(vectors)] = [
            replace(d, vector=tuple(v)) for d, v in zip(drawn, vectors, strict=True)
        ]

    def tell(self, told: Sequence[Told]) -> None:
        """Updates from a generation; begins a new run where this one has converged."""
        check_told([d.vector for d in self._asked], told)
        drawn, self._asked = self._asked[: len(told)], self._asked[len(told) :]
        # Adopted ones may come after convergence, or be too few for an update.
        if self._strategy is None or len(drawn) < max(3, self._strategy.sp.weights.mu):
            return
        with self._private.swap_in():
            if not self._has_drawn:
                self._strategy.ask(1)  # pycma refuses a second telling without one
            self._has_drawn = False
            self._strategy.tell(self._points(drawn), [float(x) for x in losses(told)])
            stopped = bool(self._strategy.stop())
        if stopped:
            self._asked = []
            self._restart()

    def _points(self, told: Sequence[_Drawn]) -> list[Points]:
        lagged = any(d.state not in (None, self._strategy.countiter) for d in told)
        return [self._move_halfway(d) for d in told] if lagged else [d.point for d in told]

    def _move_halfway(self, drawn: _Drawn) -> Points:
        """The point half-way to where it would be had it been drawn from the mean of today, by today's step.

        Told where it was drawn, it pulls the mean back; moved all the way, the same step is made again and
        again, and the search overshoots. Measured: docs/decisions/0014-lag.md.
        """
        if drawn.mean is None or drawn.step is None:
            return drawn.point
        strategy = self._strategy
        inner = (drawn.mean + strategy.mean) / 2 + strategy.sigma * drawn.step
        point: Points = strategy.gp.pheno(inner, into_bounds=strategy.boundary_handler.repair)
        # Where pycma looks up what it has drawn; its archive of rounded points forgets at each tell.
        strategy.sent_solutions.insert(point, geno=inner, iteration=strategy.countiter)
        return point

    def _restart(self) -> None:
        limit = self._settings.restarts
        if limit is not None and self.run >= limit:
            self._strategy = None
            return
        self.run += 1
        self._start_run()

    def _start_run(self) -> None:
        stream = np.random.default_rng([self._settings.seed, 1, self.run])
        spans = [self._dimensions[i].span for i in self._free]
        if self.run == 0:
            self._injected = self._starts[: self._first_population // 2]
            first = self._starts[0] if self._starts else self._middle()
            start = self._inner(first)
        else:
            start = [low + float(stream.random()) * (high - low) for low, high in spans]
            start += [0.5] * (PADDED - len(start))
        spans += [(0.0, 1.0)] * (PADDED - len(spans))
        options = {
            "bounds": [[low for low, _ in spans], [high for _, high in spans]],
            "CMA_stds": [high - low for low, high in spans],
            "CMA_diagonal": len(spans) > DIAGONAL_ABOVE,
            "integer_variables": [k for k, i in enumerate(self._free) if self._dimensions[i].integer],
            "popsize": self._first_population * 2**self.run,
            "randn": _Normal(stream),
            "seed": np.nan,  # nan: the global generator is not seeded
            "tolflatfitness": FLAT_GENERATIONS,
            "tolfun": 0,
            "tolfunhist": 0,
            "tolx": SMALLEST_STEP,
            "verbose": -10,  # below -9, pycma also looks for no file of signals
            "verb_log": 0,
        }
        with self._private.swap_in():
            self._strategy = _pycma().CMAEvolutionStrategy(start, self._settings.sigma, options)
            # inject() wants points before pycma's own map into the bounds
            preimage = self._strategy.boundary_handler.inverse
            self._strategy.inject([preimage(self._inner(v)) for v in self._injected], force=True)

    def _middle(self) -> Vector:
        return tuple(d.start for d in self._dimensions)

    def _inner(self, vector: Vector) -> list[float]:
        """The inner point for ``vector``: without the dimensions of one value, padded to two."""
        point = [float(vector[i]) for i in self._free]
        return point + [0.5] * (PADDED - len(point))

    def _outer(self, point: Points) -> Vector:
        vector = [d.span[0] for d in self._dimensions]
        for i, coordinate in zip(self._free, point, strict=False):  # a padding has no place outside
            low, high = self._dimensions[i].span
            inside = min(max(float(coordinate), low), high)
            vector[i] = float(np.floor(inside + 0.5)) if self._dimensions[i].integer else inside
        return tuple(vector)


class _Normal:
    """pycma's ``randn``, on a generator of our own."""

    def __init__(self, stream: np.random.Generator) -> None:
        self._stream = stream

    def __call__(self, *shape: int) -> Points:
        return self._stream.standard_normal(shape)


class _LegacyStream:
    """A state for NumPy's global generator, and one BLAS thread, for as long as pycma runs.

    Its integer code draws from the global generator even where ``randn`` is given, so a foreign draw would
    change the search and the search would change foreign draws. The number of BLAS threads changes the last
    bits of an eigendecomposition.
    """

    def __init__(self, seed: Sequence[int]) -> None:
        self._state: Any = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))).get_state()

    @contextmanager
    def swap_in(self) -> Iterator[None]:
        """Swaps the states on entry and back on exit."""
        foreign = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            with _threads().limit(limits=1, user_api="blas"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pycma's advice to people who call it by hand
                yield
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(foreign)  # noqa: NPY002


@cache
def _threads() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


@cache
def _pycma() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Could not import matplotlib")
        import cma
    return cma
