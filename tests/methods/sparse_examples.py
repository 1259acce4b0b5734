"""Worked examples of the methods that sparsify task vectors: d = x - b, of which some elements stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from worked_example import Numbers, Worked, over


def trimmed() -> Iterator[Worked]:
    """ties and breadcrumbs."""
    b: Numbers = [1, 1, 1, 1]
    two = over(1, [2, -1, 3, 0], [5, -2, -4, 2])
    w = {"weight": [1, 2]}
    # w d = (2, -1, 3, 0) and (10, -4, -8, 4): signs of the sums + - - +. A zero agrees with none.
    result: Numbers = [1 + (2 + 10) / 3, 1 - (1 + 4) / 3, 1 - 8 / 2, 1 + 4 / 2]
    yield Worked("ties", "dense", two, result, b, w)
    # The two largest of each: (4, 0, 2, 0) and (-3, -2, 0, 0), weighted (4, 0, 2, 0) and (-6, -4, 0, 0).
    two = over(1, [4, -1, 2, 0.5], [-3, -2, 0.5, 1])
    half: dict[str, Any] = {"density": [0.5, 0.5], **w}
    yield Worked("ties", "half", two, [1 - 6 / 2, 1 - 4 / 2, 1 + 2 / 1, 1], b, half)
    yield Worked("ties", "sum", two, [1 - 6, 1 - 4, 1 + 2, 1], b, {"normalize": False, **half})
    yield Worked("ties", "lambda", two, [1 - 3 / 2, 1 - 2 / 2, 1 + 2 / 2, 1], b, {"lambda": 0.5, **half})
    # Sum zero counts as positive.
    yield Worked("ties", "no majority", [[1 + 3], [1 - 3]], [1 + 3], [1], {"weight": [1, 1]})
    # w d = (2, -1) and (2, 3): where both agree the weights 1 and -1 add up to zero, which divides by 1.
    two = over(1, [2, -1], [-2, -3])
    yield Worked("ties", "weights of sum zero", two, [1 + 4, 1 + 3 / -1], [1, 1], {"weight": [1, -1]})
    # (4, 0, 2, 0) of L1 norm 6 gets the norm 8 back.
    one, only = over(1, [4, -1, 2, 1]), {"weight": [1], "density": [0.5]}
    result = [1 + 4 * 8 / 6, 1, 1 + 2 * 8 / 6, 1]
    yield Worked("ties", "rescale", one, result, b, {"rescale": True, **only})
    yield Worked("ties", "equals: the first", over(1, [1, -1, 1, -1]), [2, 0, 1, 1], b, only)
    few = {"weight": [1], "density": [0.2]}  # 0.2 * 4 rounds to no element
    yield Worked("ties", "one at least", one, [5, 1, 1, 1], b, few)
    yield Worked("ties", "density 0", one, b, b, {"weight": [1], "density": [0]})

    # Of 0.5, 1, 2, 4 the largest quarter goes, half stays, and so the smallest quarter goes.
    one, some = over(1, [4, -1, 2, 0.5]), {"weight": [0.5], "density": [0.5], "gamma": [0.25]}
    yield Worked("breadcrumbs", "middle", one, [1, 1 - 0.5, 1 + 1, 1], b, some)
    yield Worked("breadcrumbs", "lambda", one, [1, 1 - 1, 1 + 2, 1], b, {"lambda": 2, **some})
    yield Worked("breadcrumbs", "normalize", one, [1, 1 - 1, 1 + 2, 1], b, {"normalize": True, **some})
    result = [1, 1 - 0.5 * 7.5 / 3, 1 + 1 * 7.5 / 3, 1]  # L1 norm 4 + 1 + 2 + 0.5 before, 1 + 2 after
    yield Worked("breadcrumbs", "rescale", one, result, b, {"rescale": True, **some})
    # Half of the largest and a quarter of the rest are too many by one: only one of the largest goes.
    most = {"weight": [1], "density": [0.75], "gamma": [0.5]}
    yield Worked("breadcrumbs", "too much gamma", one, [1, 0, 3, 1.5], b, most)
    # 0.01 * 4 rounds to no element: the two smallest go.
    yield Worked("breadcrumbs", "no gamma", one, [5, 1, 3, 1], b, only)
    # Kept: (0, -1, 2, 0) and (3, 0, -1, 0); weighted (0, -2, 4, 0) and (3, 0, -1, 0).
    two = over(1, [4, -1, 2, 0.5], [3, 5, -1, -0.5])
    both = {"weight": [2, 1], "density": [0.5, 0.5], "gamma": [0.25, 0.25]}
    yield Worked("breadcrumbs", "two", two, [1 + 3, 1 - 2, 1 + 4 - 1, 1], b, both)
    yield Worked("breadcrumbs_ties", "two", two, [1 + 3, 1 - 2, 1 + 4, 1], b, both)
    result = [1 + 3 / 1, 1 - 2 / 2, 1 + 4 / 2, 1]
    yield Worked("breadcrumbs_ties", "normalize", two, result, b, {"normalize": True, **both})
    result = [1 + 3 / 2, 1 - 2 / 2, 1 + 4 / 2, 1]
    yield Worked("breadcrumbs_ties", "lambda", two, result, b, {"lambda": 0.5, **both})
    # L1 norms 7.5 of 3 and 9.5 of 4
    result = [1 + 3 * 9.5 / 4, 1 - 2 * 7.5 / 3, 1 + 4 * 7.5 / 3, 1]
    yield Worked("breadcrumbs_ties", "rescale", two, result, b, {"rescale": True, **both})


DRAWN = {  # in [0, 1), of the tensor "w": (seed, model, row) -> columns
    (0, 0, 0): [0.077, 0.354, 0.879, 0.272],
    (0, 0, 1): [0.218, 0.879],
    (0, 1, 0): [0.071, 0.799, 0.757, 0.266],
    (1, 0, 0): [0.994, 0.265, 0.823, 0.214],
}


def drawn() -> Iterator[Worked]:
    """dare and della: an element stays where its number in ``DRAWN`` is below its probability."""
    b: Numbers = [1, 1, 1, 1]
    # With probability 1/2: (1, 2, 0, -5), of L1 norm 8 instead of 12; (2, 0, 0, 2), 4 instead of 6.
    # Both are made 1.5 times as long and weighted by 2 and 1: (3, 6, 0, -15) and (3, 0, 0, 3).
    two, half = over(1, [1, 2, 4, -5], [2, 1, -1, 2]), {"weight": [2, 1], "density": [0.5, 0.5]}
    plain: Numbers = [1 + 2 * 1 + 2, 1 + 2 * 2, 1, 1 + 2 * -5 + 2]  # (4, 4, 0, -8)
    for shows, result, more in (
        ("half", [1 + 6, 1 + 6, 1, 1 - 12], {}),
        ("normalize", [1 + 6 / 3, 1 + 6 / 3, 1, 1 - 12 / 3], {"normalize": True}),
        ("lambda", [1 + 3, 1 + 3, 1, 1 - 6], {"lambda": 0.5}),
        ("no rescale", plain, {"rescale": False}),
        ("inverse density", [1 + 4 / 0.5, 1 + 4 / 0.5, 1, 1 - 8 / 0.5], {"rescale": "inverse_density"}),
    ):
        yield Worked("dare_linear", shows, two, result, b, {**half, **more})
    for shows, result, more in (
        ("half", [1 + 6, 1 + 6, 1, 1 - 15], {}),
        ("normalize", [1 + 6 / 3, 1 + 6 / 2, 1, 1 - 15 / 2], {"normalize": True}),
        ("lambda", [1 + 3, 1 + 3, 1, 1 - 7.5], {"lambda": 0.5}),
        ("no rescale", [1 + 4, 1 + 4, 1, 1 - 10], {"rescale": False}),
        ("inverse density", [1 + 8, 1 + 8, 1, 1 - 20], {"rescale": "inverse_density"}),
    ):
        yield Worked("dare_ties", shows, two, result, b, {**half, **more})
    # Of another seed (0, 2, 0, -5), of L1 norm 7 instead of 12.
    another = {"weight": [1], "density": [0.5], "seed": 1}
    result = [1, 1 + 2 * 12 / 7, 1, 1 - 5 * 12 / 7]
    yield Worked("dare_linear", "seed", two[:1], result, b, another)
    dense = [1 + 2 * 1 + 2, 1 + 2 * 2 + 1, 1 + 2 * 4 - 1, 1 - 2 * 5 + 2]
    for method in ("dare_linear", "della_linear"):
        yield Worked(method, "dense", two, dense, b, {"weight": [2, 1]})
    elected = [1 + 4, 1 + 5, 1 + 8, 1 - 10]  # (2, 4, 8, -10) and (2, 1, -1, 2)
    yield Worked("dare_ties", "dense", two, elected, b, {"weight": [2, 1]})
    yield Worked("della", "dense", two, [1 + 4 / 3, 1 + 5 / 3, 1 + 8 / 2, 1 - 10 / 2], b, {"weight": [2, 1]})
    for method in ("dare_linear", "dare_ties", "della", "della_linear"):
        yield Worked(method, "density 0", two[:1], b, b, {"weight": [1], "density": [0]})

    # della: probabilities 0.1, 0.3, 0.5, 0.7 from the smallest to the largest of the row (of equals the first
    # is the smaller). Below 0.1, 0.3, 0.5, 0.7: (1, 0, 0, -5), twice as long for the norm 12 instead of 6.
    # Below 0.5, 0.1, 0.3, 0.7: (2, 0, 0, 2), times 6/4. Weighted: (4, 0, 0, -20) and (3, 0, 0, 3).
    ranked: dict[str, Any] = {"weight": [2, 1], "density": [0.4, 0.4], "epsilon": [0.3, 0.3]}
    for shows, result, more in (
        ("ranks", [1 + 7 / 3, 1, 1, 1 - 20 / 2], {}),
        ("sum", [1 + 7, 1, 1, 1 - 20], {"normalize": False}),
        ("lambda", [1 + 2 * 7 / 3, 1, 1, 1 - 20], {"lambda": 2}),
        ("no rescale", [1 + (2 + 2) / 3, 1, 1, 1 - 10 / 2], {"rescale": False}),
        ("inverse density", [1 + 4 / 3 / 0.4, 1, 1, 1 - 5 / 0.4], {"rescale": "inverse_density"}),
    ):
        yield Worked("della", shows, two, result, b, {**ranked, **more})
    for shows, result, more in (
        ("ranks", [1 + 7, 1, 1, 1 - 17], {}),
        ("normalize", [1 + 7 / 3, 1, 1, 1 - 17 / 3], {"normalize": True}),
        ("lambda", [1 + 3.5, 1, 1, 1 - 8.5], {"lambda": 0.5}),
        ("no rescale", [1 + 4, 1, 1, 1 - 8], {"rescale": False}),
        ("inverse density", [1 + 4 / 0.4, 1, 1, 1 - 8 / 0.4], {"rescale": "inverse_density"}),
    ):
        yield Worked("della_linear", shows, two, result, b, {**ranked, **more})
    # The other way round, (5, 4, 2, -1): below 0.7, 0.5, 0.3, 0.1. L1 norm 9 instead of 12.
    turned = {"weight": [1], "density": [0.4], "epsilon": [0.3]}
    result = [1 + 5 * 12 / 9, 1 + 4 * 12 / 9, 1, 1]
    yield Worked("della_linear", "falling", over(1, [5, 4, 2, -1]), result, b, turned)
    # Ranks are those of a row: of each the smaller stays below 0.2, the larger below 0.8. In the whole matrix
    # the 3 would be above the middle, and stay.
    rows = {"weight": [1], "density": [0.5], "epsilon": [0.3]}
    matrix: Numbers = [[1 + 4 * 10 / 6, 1], [1 + 2 * 10 / 6, 1]]
    yield Worked("della_linear", "rows", over(1, [[4, 3], [2, 1]]), matrix, [[1, 1], [1, 1]], rows)
