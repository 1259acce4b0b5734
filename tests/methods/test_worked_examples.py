"""Every merge formula on about four numbers, worked out by hand from the method's paper.

The expected values are written as the arithmetic that gives them. They go the way of a user: a recipe and
model folders in, a model folder out. b is the base, d = x - b a task vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import cos, log, pi, sin, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from method_support import ModelFolders
from sparse_examples import DRAWN, drawn, trimmed
from worked_example import Numbers, Worked, over

from evomerge.errors import RecipeError
from evomerge.methods import methods


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
    turned, line = [[1, 2, 2, 0], [-1, -2, -2, 0]], [2 / 3 - 1 / 3, 4 / 3 - 2 / 3, 4 / 3 - 2 / 3, 0]
    yield Worked("nuslerp", "opposite: a line", turned, line, None, w)
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
    # eps = 1/4: directions x / (|x| + 1/4) = (1/2, 0) and (0, 3/4), mean (2, 3) / sqrt(13), turned by
    # |T| + eps = 1/4 towards T = 0, which leaves the cosine of it.
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
    yield Worked("model_stock", "opposite: the base", [[3, 1, 1, 1], [-3, 1, 1, 1]], b, b)


def chosen() -> Iterator[Worked]:
    """Elements that are chosen by comparing the models."""
    b: Numbers = [1, 1, 1, 1]
    # Mean squares 6/4 and 18/4: the models weigh 1/4 and 3/4. Signs of the sums - - + +.
    two = over(1, [1, -2, 1, 0], [-4, -1, 1, 0])
    result: Numbers = [1 - 4, 1 + (1 / 4 * -2 + 3 / 4 * -1) / 1, 1 + 1, 1]
    yield Worked("sce", "all", two, result, b)
    # Variances 4, 1/4, 0, 1: three are not zero, of which 0.7 are 2. What is left has mean squares of 10/4.
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

    # In one row the divergence is a common factor. Quartiles of 0.1, 0.2, 0.2, 1 are its first three elements
    # (3 * 0.25, 3 * 0.5 and 3 * 0.75 cut to whole numbers): the threshold is 0.2 + 1.5 * (0.2 - 0.1) = 0.35.
    yield Worked("arcee_fusion", "a row", [[1, 0.1, -0.2, 0.2]], [1, 0, 0, 0], [0, 0, 0, 0])
    # Both rows change one element by 2 log(3). Row 1: p = (1, 27) / 28 over q = (1, 3) / 4, divergence
    # 1/28 log(4/28) + 27/28 log(4 * 27 / (28 * 3)) = 0.173. Row 2: p = (1, 1) / 2 over q = (1, 9) / 10,
    # divergence 1/2 log(10/2) + 1/2 log(10/18) = 0.511. Importances 0, 0.380, 0, 1.122 with the quartiles 0,
    # 0 and 0.380: the threshold is 0 + 1.5 * 0.380 = 0.570.
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
    """MurmurHash3's finalizer of column and key, the row's key mixed in half way, in whole numbers."""
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
    # An element is 4 with probability 1/4, its deviation sqrt(16/4 - 1), that of the mean a hundredth of it.
    assert float(merged.mean()) == pytest.approx(1, abs=4 * sqrt(16 / 4 - 1) / 100)
