"""Every merge formula on about four numbers, worked out by hand from the method's paper.

The expected values are written as the arithmetic that gives them. They go the way of a user: a recipe and model
folders in, a model folder out. b is the base, d = x - b a task vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import cos, log, pi, sin, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from method_support import ModelFolders

from evomerge.errors import RecipeError
from evomerge.methods import methods

Numbers = list[Any]
"""A vector, or a matrix as its rows."""


@dataclass(frozen=True)
class Worked:
    """A merge and its result. Of the settings, those that are lists have one number per model."""

    method: str
    shows: str
    models: list[Numbers]
    result: Numbers
    base: Numbers | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def sin_of(degrees: float) -> float:
    return sin(degrees * pi / 180)


def cos_of(degrees: float) -> float:
    return cos(degrees * pi / 180)


def sums() -> Iterator[Worked]:
    """Linear combinations with coefficients from the parameters alone."""
    two = [[4, 0, -8, 1], [0, 4, 8, 1]]
    result: Numbers = [(1 * 4 + 3 * 0) / 4, (1 * 0 + 3 * 4) / 4, (-8 + 24) / 4, (1 + 3) / 4]
    yield Worked("linear", "average", two, result, settings={"weight": [1, 3]})
    result = [0.5 * 4, 0.25 * 4, 0.5 * -8 + 0.25 * 8, 0.5 + 0.25]
    yield Worked("linear", "sum", two, result, settings={"weight": [0.5, 0.25], "normalize": False})

    yield Worked("passthrough", "copy", [[1, -2, 3, 0]], [1, -2, 3, 0])
    yield Worked("passthrough", "scale", [[1, -2, 3, 0]], [0.5, -1, 1.5, 0], settings={"scale": [0.5]})

    b, two = [1, 1, 1, 1], [[3, 1, 0, 1], [1, 5, 1, -1]]  # d = (2, 0, -1, 0) and (0, 4, 0, -2)
    # sum of w d = (0.5 * 2, 0.25 * 4, 0.5 * -1, 0.25 * -2) = (1, 1, -0.5, -0.5)
    for shows, result, more in (
        ("sum", [1 + 1, 1 + 1, 1 - 0.5, 1 - 0.5], {}),
        ("lambda", [1 + 2 * 1, 1 + 2 * 1, 1 - 2 * 0.5, 1 - 2 * 0.5], {"lambda": 2}),
        ("normalize", [1 + 1 / 0.75, 1 + 1 / 0.75, 1 - 0.5 / 0.75, 1 - 0.5 / 0.75], {"normalize": True}),
    ):
        yield Worked("task_arithmetic", shows, two, result, b, {"weight": [0.5, 0.25], **more})
    opposite = {"weight": [1, -1], "normalize": True}  # weights whose sum is zero divide by 1
    yield Worked("task_arithmetic", "normalize by zero", two, [1 + 2, 1 - 4, 1 - 1, 1 + 2], b, opposite)


def arcs() -> Iterator[Worked]:
    """Interpolation between two vectors: sin((1-t) a) / sin(a) and sin(t a) / sin(a), a their angle."""
    third: dict[str, Any] = {"t": 1 / 3}
    right, ahead = [[0, 3, 0, 0]], [2, 0, 0, 0]  # at 90 degrees: sin 60 of the base, sin 30 of the other
    yield Worked("slerp", "right angle", right, [2 * sqrt(3) / 2, 3 * 1 / 2, 0, 0], ahead, third)
    # A tensor is one vector: at 90 degrees, sin 45 of both.
    result: Numbers = [[sqrt(2) / 2, 0], [0, 2 * sqrt(2) / 2]]
    yield Worked("slerp", "matrix", [[[0, 0], [0, 2]]], result, [[1, 0], [0, 0]], {"t": 0.5})
    # (1, 0) and (1/2, sqrt(3)/2) are 60 degrees apart; half way is the unit vector at 30 degrees.
    half = [[1 / 2, sqrt(3) / 2, 0, 0]]
    yield Worked("slerp", "60 degrees", half, [sqrt(3) / 2, 1 / 2, 0, 0], [1, 0, 0, 0], {"t": 0.5})
    line, b = [0.75 * 1 + 0.25 * 2, 0.75 * 2 + 0.25 * 4, 2.5, 0], [1, 2, 2, 0]
    yield Worked("slerp", "parallel: a line", [[2, 4, 4, 0]], line, b, {"t": 0.25})
    opposite: Numbers = [0.75 - 0.25, 2 * 0.5, 2 * 0.5, 0]
    yield Worked("slerp", "opposite: a line", [[-1, -2, -2, 0]], opposite, b, {"t": 0.25})
    # Nothing has no direction: its product with any other is 0, as at a right angle.
    yield Worked("slerp", "zero", [[0, 0, 0, 0]], [2 * sqrt(3) / 2, 0, 0, 0], ahead, third)

    # t = w_2 / (w_1 + w_2) = 1/3
    w: dict[str, Any] = {"weight": [2, 1]}
    yield Worked("nuslerp", "right angle", [ahead, *right], [sqrt(3), 1.5, 0, 0], None, w)
    result = [2 * sqrt(2) / 2, 3 * sqrt(2) / 2, 0, 0]
    yield Worked("nuslerp", "weights of sum zero", [ahead, *right], result, None, {"weight": [1, -1]})
    one = [1, 1, 1, 1]
    result = [1 + sqrt(3), 1 + 1.5, 1, 1]
    yield Worked("nuslerp", "task vectors", [[3, 1, 1, 1], [1, 4, 1, 1]], result, one, w)
    # First line at a right angle; in the second (1, 1) and (4, 4) are parallel: 2/3 * 1 + 1/3 * 4 = 2.
    by_row, by_column = [[[2, 0], [1, 1]], [[0, 3], [4, 4]]], [[[2, 1], [0, 1]], [[0, 4], [3, 4]]]
    lines = {"nuslerp_flatten": False, **w}
    yield Worked("nuslerp", "rows", by_row, [[sqrt(3), 1.5], [2, 2]], None, lines)
    across = {"nuslerp_row_wise": True, **lines}
    yield Worked("nuslerp", "columns", by_column, [[sqrt(3), 2], [1.5, 2]], None, across)
    whole: list[Numbers] = [[[2, 0], [0, 0]], [[0, 0], [0, 3]]]
    yield Worked("nuslerp", "whole matrix", whole, [[sqrt(3), 0], [0, 1.5]], None, w)


def spheres() -> Iterator[Worked]:
    """Means of directions, with the mean length."""
    two = [[2, 0, 0, 0], [0, 4, 0, 0]]
    # multislerp's tangent vectors are taken at the very mean of the directions, so they add up to zero: the
    # result is that mean, made a unit vector, times the weighted length.
    length = (2 + 4) / 2
    result: Numbers = [length / sqrt(2), length / sqrt(2), 0, 0]
    yield Worked("multislerp", "middle", two, result, None, {"weight": [1, 1]})
    # 3/4 (1, 0) + 1/4 (0, 1) points to (3, 1) / sqrt(10)
    length, w = 0.75 * 2 + 0.25 * 4, {"weight": [3, 1]}
    result = [length * 3 / sqrt(10), length * 1 / sqrt(10), 0, 0]
    yield Worked("multislerp", "weights", two, result, None, w)
    length = 3 * 2 + 1 * 4
    result = [length * 3 / sqrt(10), length * 1 / sqrt(10), 0, 0]
    yield Worked("multislerp", "sum of weights", two, result, None, {"normalize_weights": False, **w})
    three, length = [[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 6, 0]], (3 + 3 + 6) / 3
    equal = {"weight": [1, 1, 1]}
    result = [length / sqrt(3), length / sqrt(3), length / sqrt(3), 0]
    yield Worked("multislerp", "three", three, result, None, equal)
    shifted = [[1 + 3, 1, 1, 1], [1, 1 + 3, 1, 1], [1, 1, 1 + 6, 1]]
    result = [1 + 4 / sqrt(3), 1 + 4 / sqrt(3), 1 + 4 / sqrt(3), 1]
    yield Worked("multislerp", "task vectors", shifted, result, [1, 1, 1, 1], equal)
    # eps = 1/4: directions x / (|x| + 1/4) = (1/2, 0) and (0, 3/4), mean (2, 3) / sqrt(13), turned by |T| + eps =
    # 1/4 towards T = 0, which leaves the cosine of it.
    length = (0.25 + 0.75) / 2 * cos(0.25)
    result = [length * 2 / sqrt(13), length * 3 / sqrt(13), 0, 0]
    short, settings = [[0.25, 0, 0, 0], [0, 0.75, 0, 0]], {"weight": [1, 1], "eps": 0.25}
    yield Worked("multislerp", "eps", short, result, None, settings)
    opposite = [[2, 0, 0, 0], [-4, 0, 0, 0]]
    yield Worked("multislerp", "two cancel", opposite, [(2 - 4) / 2, 0, 0, 0], None, {"weight": [1, 1]})
    yield Worked("multislerp", "one", [[1, 2, 3, 4]], [1, 2, 3, 4], None, {"weight": [0.3]})

    # On a circle the mean of equal weights is the mean of the angles: 0 and 90 degrees, 0, 0 and 90 degrees.
    yield Worked("karcher", "middle", two, [3 / sqrt(2), 3 / sqrt(2), 0, 0])
    plane = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    yield Worked("karcher", "mean angle", plane, [sqrt(3) / 2, 1 / 2, 0, 0])
    yield Worked("karcher", "first step", plane, [sqrt(3) / 2, 1 / 2, 0, 0], settings={"max_iter": 1})
    # The start is the mean of the vectors, 26.6 degrees: 0.06 from the end, which is less than 0.1.
    yield Worked("karcher", "tol", plane, [2 / sqrt(5), 1 / sqrt(5), 0, 0], settings={"tol": 0.1})
    result = [2.5 * cos_of(90 / 4), 2.5 * sin_of(90 / 4), 0, 0]  # length 3/4 * 2 + 1/4 * 4
    yield Worked("karcher", "weights", two, result, settings={"weight": [3, 1]})
    yield Worked("karcher", "three", three, [4 / sqrt(3), 4 / sqrt(3), 4 / sqrt(3), 0])
    yield Worked("karcher", "a zero has length only", [[2, 0, 0, 0], [0, 0, 0, 0]], [(2 + 0) / 2, 0, 0, 0])
    yield Worked("karcher", "zeros", [[0, 0, 0, 0], [0, 0, 0, 0]], [0, 0, 0, 0])
    yield Worked("karcher", "opposite: the first", opposite, [(2 + 4) / 2, 0, 0, 0])

    # model_stock: t = N c / (1 + (N - 1) c), c the mean cosine of the task vectors; b + t * mean of them.
    b: Numbers = [1, 1, 1, 1]
    yield Worked("model_stock", "right angle: the base", [[3, 1, 1, 1], [1, 3, 1, 1]], b, b)
    # d = (2, 0) and (1, sqrt(3)): c = 1/2, t = 2/3, mean (3/2, sqrt(3)/2)
    half = [[1 + 2, 1, 1, 1], [1 + 1, 1 + sqrt(3), 1, 1]]
    result = [1 + 2 / 3 * 3 / 2, 1 + 2 / 3 * sqrt(3) / 2, 1, 1]
    yield Worked("model_stock", "60 degrees", half, result, b)
    # Each two of (1, 1, 0), (1, 0, 1) and (0, 1, 1) have c = 1/2: t = 3/2 / (1 + 1) = 3/4, mean 2/3
    corners = [[2, 2, 1, 1], [2, 1, 2, 1], [1, 2, 2, 1]]
    result = [1 + 3 / 4 * 2 / 3] * 3
    yield Worked("model_stock", "three", corners, [*result, 1], b)
    # Rows (2, 0), (0, 2) at a right angle: t = 0. Rows (1, 1), (3, 3) parallel: t = 1. As one: dot 6 of
    # lengths sqrt(6) and sqrt(22).
    matrices, ones = [[[3, 1], [2, 2]], [[1, 3], [4, 4]]], [[1, 1], [1, 1]]
    rows: dict[str, Any] = {"filter_wise": True}
    yield Worked("model_stock", "rows", matrices, [[1, 1], [1 + 2, 1 + 2]], ones, rows)
    c = 6 / sqrt(6 * 22)
    t = 2 * c / (1 + c)
    yield Worked("model_stock", "matrix", matrices, [[1 + t, 1 + t], [1 + 2 * t, 1 + 2 * t]], ones)
    yield Worked("model_stock", "opposite: the base", [[3, 1, 1, 1], [-1, 1, 1, 1]], b, b)


def over(b: float, *task_vectors: Numbers) -> list[Numbers]:
    """The models with these task vectors over a base whose elements are all ``b``."""
    return [[over(b, v)[0] if isinstance(v, list) else b + v for v in d] for d in task_vectors]


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
    # With probability 1/2: d_1 = (1, 2, 0, -5), of L1 norm 8 instead of 12; d_2 = (2, 0, 0, 2), 4 instead of 6.
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
    yield Worked("dare_linear", "density 0", two[:1], b, b, {"weight": [1], "density": [0]})

    # della: probabilities 0.1, 0.3, 0.5, 0.7 from the smallest to the largest of the row (of equals the first
    # is the smaller). d_1: below 0.1, 0.3, 0.5, 0.7: (1, 0, 0, -5), twice as long for the norm 12 instead of 6.
    # d_2: below 0.5, 0.1, 0.3, 0.7: (2, 0, 0, 2), times 6/4. Weighted: (4, 0, 0, -20) and (3, 0, 0, 3).
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


def chosen() -> Iterator[Worked]:
    """Elements that are chosen by comparing the models."""
    b: Numbers = [1, 1, 1, 1]
    # Mean squares 6/4 and 18/4: the models weigh 1/4 and 3/4. Signs of the sums - - + +.
    two = over(1, [1, -2, 1, 0], [-4, -1, 1, 0])
    result: Numbers = [1 - 4, 1 + (1 / 4 * -2 + 3 / 4 * -1) / 1, 1 + 1, 1]
    yield Worked("sce", "all", two, result, b)
    # Variances 4, 1/4, 0, 1: three are not zero, of which 0.7 are 2. Of what is left both mean squares are 10/4.
    two = over(1, [1, -2, 1, 3], [-3, -1, 1, 1])
    yield Worked("sce", "largest variance", two, [1 - 3, 1, 1, 1 + (3 + 1) / 2], b, {"select_topk": 0.7})
    # Of 0.5 of three it is one; mean squares 1/4 and 9/4, of which the second agrees.
    yield Worked("sce", "one element", two, [1 - 3, 1, 1, 1], b, {"select_topk": 0.5})
    yield Worked("sce", "none", two, b, b, {"select_topk": 0.1})
    # Mean squares 4e-8 and 1e-8 do not add up to 1e-6: equal weights.
    small = [[4e-4, 0, 0, 0], [2e-4, 0, 0, 0]]
    yield Worked("sce", "small changes", small, [(4e-4 + 2e-4) / 2, 0, 0, 0], [0, 0, 0, 0])

    # Distances 1/2, 0, 2, 1/5 of which up to t = 1/2 is bridged; of the third a quarter.
    result = [1.5, 1, 1 + 2 / 4, 0.8]
    yield Worked("nearswap", "distances", [[1.5, 1, 3, 0.8]], result, b, {"t": 0.5})
    yield Worked("nearswap", "t is zero", [[1.5, 1, 3, 0.8]], b, b, {"t": 0})

    # In one row the divergence is a common factor: quartiles of 0.1, 0.2, 0.2, 1 are its elements 0, 1 and 2 of
    # 0 to 3, and the threshold is 0.2 + 1.5 * (0.2 - 0.1) = 0.35.
    yield Worked("arcee_fusion", "a row", [[1, 0.1, -0.2, 0.2]], [1, 0, 0, 0], [0, 0, 0, 0])
    # Both rows change one element by 2 log(3). Row 1: p = (1, 27) / 28 over q = (1, 3) / 4, divergence
    # 1/28 log(4/28) + 27/28 log(4 * 27 / (28 * 3)) = 0.173; row 2: p = (1, 1) / 2 over q = (1, 9) / 10, divergence
    # 1/2 log(10/2) + 1/2 log(10/18) = 0.511. Importances 0, 0.380, 0, 1.122: the threshold is 0 + 1.5 * 0.380.
    base, other = [[0, log(3)], [0, log(9)]], [[[0, log(27)], [0, 0]]]
    yield Worked("arcee_fusion", "divergence", other, [[0, log(3)], [0, 0]], base)

    two = over(1, [2, 4, 0, 0], [0, 2, -3, 0])
    yield Worked("ram", "unique and shared", two, [1 + 2, 1 + (4 + 2) / 2, 1 - 3, 1], b)
    two = over(1, [2, 0.5, 0, 0], [0, 2, -0.25, 0])  # half is not above half
    yield Worked("ram", "epsilon", two, [1 + 2, 1 + 2, 1, 1], b, {"epsilon": 0.5})
    three = over(0, [3, 6, 0, 0], [0, 3, -3, 0], [0, 3, -5, 0])
    yield Worked("ram", "three", three, [3, (6 + 3 + 3) / 3, (-3 - 5) / 2, 0], [0, 0, 0, 0])
    # The first has one shared change and two of its own, ratio 1/2; the second one of each, ratio 1.
    two = over(1, [2, 4, 0, 6], [0, 2, -3, 0])
    far: dict[str, Any] = {"r": 0.5, "alpha": 1}
    result = [1 + 2 * (1 + 0.5 * 0.5), 1 + 3, 1 - 3 * (1 + 0.5 * 1), 1 + 6 * (1 + 0.5 * 0.5)]
    yield Worked("ramplus_tl", "ratios", two, result, b, far)
    result = [1 + 2 * (1 + 0.1 * 0.2), 1 + 3, 1 - 3 * (1 + 0.1 * 0.2), 1 + 6 * (1 + 0.1 * 0.2)]
    yield Worked("ramplus_tl", "alpha", two, result, b)  # 0.2 at most, times r = 0.1
    # Changes up to 2 do not count: (0, 4, 0, 6) and (0, 0, -3, 0) share nothing.
    yield Worked("ramplus_tl", "epsilon", two, [1, 1 + 4, 1 - 3, 1 + 6], b, {"epsilon": 2, **far})


EXAMPLES = [*sums(), *arcs(), *spheres(), *trimmed(), *drawn(), *chosen()]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.method}-{e.shows}")
@pytest.mark.usefixtures("kernels")
def test_the_result_is_that_of_the_paper(example: Worked, tmp_path: Path) -> None:
    models = [torch.tensor(x, dtype=torch.float32) for x in example.models]
    base = None if example.base is None else torch.tensor(example.base, dtype=torch.float32)
    merged = ModelFolders(tmp_path).merge(example.method, models, base, example.settings)
    torch.testing.assert_close(
        merged, torch.tensor(example.result, dtype=torch.float32), rtol=1e-6, atol=1e-6
    )


def test_every_parameter_of_every_method_is_in_an_example() -> None:
    shown = {(e.method, parameter) for e in EXAMPLES for parameter in e.settings}
    every = {(m.name, p) for m in methods() for p in m.parameters if p != "int8_mask"}
    missing = every - shown - {(name, "seed") for name in ("dare_ties", "della", "della_linear")}
    assert {m.name for m in methods()} == {e.method for e in EXAMPLES}
    assert not missing


def test_three_directions_that_cancel_out_have_no_multislerp(tmp_path: Path) -> None:
    four = [torch.tensor(x) for x in ([1.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -3.0])]
    with pytest.raises(RecipeError, match="cancel out"):
        ModelFolders(tmp_path).merge("multislerp", four, None, {"weight": [1, 1, 1, 1]})


def test_the_drawn_numbers_are_those_of_the_counter_based_generator() -> None:
    """MurmurHash3's finalizer of column and key, the row's key mixed in half way; in whole numbers of Python."""
    low, c1, c2, golden = 0xFFFFFFFF, 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9

    def key(*parts: int | str) -> int:
        text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def mix(x: int, inner: int = 0) -> int:
        x = ((x ^ x >> 16) * c1 & low) ^ inner
        x = (x ^ x >> 13) * c2 & low
        return x ^ x >> 16

    for (seed, model, row), columns in DRAWN.items():
        k = key(seed, key("w"), model)
        first = mix((row * golden + k) & low)
        second = mix(first ^ k >> 32)
        for column, expected in enumerate(columns):
            signed = (mix((column * golden + first) & low, second) + 2**31) & low  # counts from -2^31
            assert signed / 2**32 == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("method", "more"), [("dare_linear", {}), ("della_linear", {"epsilon": [0.2]})])
def test_divided_by_the_density_a_random_mask_keeps_the_mean(
    method: str, more: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"weight": [1], "density": [0.25], "rescale": "inverse_density", **more}
    d = [torch.ones(100, 100)]
    merged = ModelFolders(tmp_path).merge(method, d, torch.zeros(100, 100), settings)
    # An element is 4 with probability 1/4: its deviation is sqrt(16/4 - 1), that of the mean of 10^4 a hundredth.
    assert float(merged.mean()) == pytest.approx(1, abs=4 * sqrt(16 / 4 - 1) / 100)
