"""What a lag costs CMA-ES in evaluations, on functions whose optimum is known.

    python scripts/bench_lag.py [--lag 0 8 16 32] [--population 16] [--dimensions 5 10 20] [--seeds 20]

The real sampler over [0, 1]^n, asked ahead by the lag and told whole generations in the order of asking.
For each function and lag: the median over the seeds of the best loss after 200, 400 and 800 evaluations, and
after how many evaluations, as a multiple of those without a lag, half of the seeds had what without a lag
half of them have after 400. The functions: a sphere; an ellipsoid of condition 1000, turned; Rosenbrock's;
and steps, the share of 150 items that are wrong, each right within an ellipsoid of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.recipe import Dimension
from evomerge.search.samplers import CmaEsSettings, SamplerPlan, Told, Vector, make_sampler

ITEMS = 150
BUDGET = 1600

Loss = Callable[[NDArray[np.float64]], float]


def sphere(optimum: NDArray[np.float64], _: np.random.Generator) -> Loss:
    return lambda x: float(((x - optimum) ** 2).sum())


def ellipsoid(optimum: NDArray[np.float64], stream: np.random.Generator) -> Loss:
    weights = 1e3 ** np.linspace(0, 1, len(optimum))
    turned, _ = np.linalg.qr(stream.standard_normal((len(optimum), len(optimum))))
    return lambda x: float((weights * (turned @ (x - optimum)) ** 2).sum())


def rosenbrock(_: NDArray[np.float64], __: np.random.Generator) -> Loss:
    def loss(x: NDArray[np.float64]) -> float:
        z = 4 * (x - 0.5)
        return float((100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2).sum())

    return loss


def steps(optimum: NDArray[np.float64], stream: np.random.Generator) -> Loss:
    n = len(optimum)
    weights = stream.dirichlet(np.full(n, 0.5), ITEMS) * n
    reach = np.sort(stream.exponential(0.02 * n**0.5, ITEMS))
    centres = optimum + 0.05 * stream.standard_normal((ITEMS, n))
    return lambda x: 1 - float(((weights * (x - centres) ** 2).sum(1) < reach).mean())


def best_so_far(
    make: Callable[..., Loss], dimensions: int, seed: int, lag: int, population: int
) -> list[float]:
    stream = np.random.default_rng([99, seed])
    loss = make(0.2 + 0.6 * stream.random(dimensions), stream)
    space = [Dimension(f"x{i}", "float", 0, 1) for i in range(dimensions)]
    sampler = make_sampler(SamplerPlan(CmaEsSettings(population=population, seed=seed, restarts=0)), space)
    queue: list[Vector] = sampler.ask(lag)
    found: list[float] = []
    while len(found) < BUDGET:
        queue += sampler.ask(population)
        told, queue = queue[:population], queue[population:]
        losses = [loss(np.array(v)) for v in told]
        found += losses
        sampler.tell([Told(v, (-x,)) for v, x in zip(told, losses, strict=True)])
        if not sampler.population:  # it has converged
            found += [min(found)] * BUDGET
    return list(np.minimum.accumulate(found[:BUDGET]))


def reached(curves: NDArray[np.float64], goal: float) -> float:
    """The median number of evaluations until the loss is ``goal``; infinite where most never get there."""
    first = [np.argmax(c <= goal) + 1 if (c <= goal).any() else np.inf for c in curves]
    return float(np.median(first))


def bench(
    make: Callable[..., Loss], dimensions: int, lags: Sequence[int], population: int, seeds: int
) -> None:
    goal, needed = 0.0, 0.0
    for lag in lags:
        curves = np.array([best_so_far(make, dimensions, s, lag, population) for s in range(seeds)])
        after = [float(np.median(curves[:, n - 1])) for n in (200, 400, 800)]
        if lag == lags[0]:
            goal, needed = after[1], reached(curves, after[1])
        columns = " | ".join(f"{x:.2g}" for x in after)
        ratio = reached(curves, goal) / needed
        print(f"| {make.__name__} | {dimensions} | {lag} | {columns} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lag", type=int, nargs="+", default=[0, 8, 16, 32], help="the first is the reference"
    )
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    print(
        "| function | dimensions | lag | after 200 | 400 | 800 | evaluations |\n|---|---|---|---|---|---|---|"
    )
    for make in (sphere, ellipsoid, rosenbrock, steps):
        for dimensions in arguments.dimensions:
            bench(make, dimensions, arguments.lag, arguments.population, arguments.seeds)


if __name__ == "__main__":
    main()
