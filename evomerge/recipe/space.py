"""A search space: a merge recipe in which values are replaced by holes.

    weight: {float: [0, 1.5]}             one number
    weight: {float: [0, 1.5], points: 4}  a gradient of four numbers over the layers
    layer_range: [0, {int: [8, 24]}]      a whole number
    merge_method: {choice: [ties, dare_ties]}

Optional in a hole: ``init`` (where the search starts), ``log`` (a logarithmic scale), ``name`` (holes with
one name share one value).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from evomerge.errors import RecipeError, did_you_mean, together
from evomerge.recipe.dialect import normalise
from evomerge.recipe.files import parse
from evomerge.recipe.model import Recipe

__all__ = ["Dimension", "Hole", "SearchSpace", "Value", "Values"]

Kind = Literal["float", "int", "choice"]
Value = bool | int | float | str
Values = dict[str, Value]
"""One value per dimension, by its name."""

MAX_DIMENSIONS = 5000
"""A search in more dimensions would not converge, and checking the space alone would take minutes."""
_LARGEST = {"int": 2**53, "float": 1e300}
"""The largest bound: coordinates are floats, and the difference of two bounds must be finite as well."""

_KINDS: tuple[Kind, ...] = ("float", "int", "choice")
_OPTIONS = ("init", "log", "points", "name")
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Dimension:
    """One searched number.

    Samplers work on a coordinate: a float runs over [0, 1] (on a log scale if asked), an int over
    [low, high] itself, a choice over the indices of ``choices``. ``low`` and ``high`` are inclusive.
    """

    name: str
    kind: Kind
    low: float
    high: float
    log: bool = False
    choices: tuple[Value, ...] = ()
    init: Value | None = None

    @cached_property
    def span(self) -> tuple[float, float]:
        """Bounds of the coordinate, inclusive."""
        if self.kind == "float":
            return 0.0, 1.0
        return (self.low, self.high) if self.kind == "int" else (0.0, float(len(self.choices) - 1))

    @property
    def integer(self) -> bool:
        """Whether only whole coordinates mean different values."""
        return self.kind != "float"

    def decode(self, coordinate: float) -> Value:
        """The value at ``coordinate``; coordinates outside the span count as its nearest bound."""
        low, high = self.span
        c = min(max(float(coordinate), low), high)
        if self.kind == "choice":
            return self.choices[math.floor(c + 0.5)]
        if self.kind == "int":
            return math.floor(c + 0.5)
        if self.log:
            value = math.exp(math.log(self.low) + c * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + c * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def encode(self, value: Value) -> float:
        """The coordinate of ``value``; the inverse of ``decode`` up to rounding."""
        if self.kind == "choice":
            return float(self.choices.index(value))
        number = float(value)
        if self.kind == "int":
            return number
        if self.high == self.low:
            return 0.0
        if self.log:
            return (math.log(number) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (number - self.low) / (self.high - self.low)

    @property
    def start(self) -> float:
        """Coordinate of ``init``, or the middle."""
        low, high = self.span
        return (low + high) / 2 if self.init is None else self.encode(self.init)


@dataclass(frozen=True)
class Hole:
    """A place in the document, and the dimensions that fill it (several for a gradient)."""

    path: Path
    names: tuple[str, ...]
    gradient: bool


class SearchSpace:
    """A recipe with holes.

    ``dimensions`` are in the order of the document; every vector of coordinates decodes to values within
    bounds, and ``fill`` turns values into a recipe. ``warnings`` say what of the document is ignored.

    Raises:
        RecipeError: A hole is malformed or stands where its value may not, or the recipe around is wrong.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        normal, self.warnings = normalise(document)
        self.document: dict[str, Any] = copy.deepcopy(normal)
        found = list(_find_holes(self.document))
        if any(not path for path, _ in found):
            raise RecipeError("", "a hole may not stand for the whole recipe")
        labels = _labels(self.document, [path for path, _ in found])
        dimensions: dict[str, Dimension] = {}
        holes = []
        errors: list[RecipeError] = []
        for (path, node), label in zip(found, labels, strict=True):
            try:
                hole, made = _parse_hole(path, node, label)
            except RecipeError as exception:
                errors.append(exception)
                continue
            for dimension in made:
                known = dimensions.setdefault(dimension.name, dimension)
                if known != dimension:
                    raise RecipeError(
                        _text(path),
                        f"two holes are named {dimension.name!r} but have different bounds or kinds",
                    )
            holes.append(hole)
            if len(dimensions) > MAX_DIMENSIONS:
                raise RecipeError("", f"has more than {MAX_DIMENSIONS} dimensions, too many to search")
        if errors:
            raise together(errors, "holes are wrong")
        self.holes: tuple[Hole, ...] = tuple(holes)
        self._tree = _tree(self.holes)
        self.dimensions: tuple[Dimension, ...] = tuple(dimensions.values())
        self._check()

    def decode(self, vector: Sequence[float]) -> Values:
        """Coordinates, one per dimension, to values."""
        return {d.name: d.decode(c) for d, c in zip(self.dimensions, vector, strict=True)}

    def encode(self, values: Mapping[str, Value]) -> tuple[float, ...]:
        """Values to coordinates."""
        return tuple(d.encode(values[d.name]) for d in self.dimensions)

    def start(self) -> tuple[float, ...]:
        """The coordinates where a search starts."""
        return tuple(d.start for d in self.dimensions)

    def fill(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe with every hole replaced by its value.

        Raises:
            RecipeError: The filled recipe is not valid.
        """
        return parse(Recipe, _fill(self.document, self._tree, values))

    def values_of(self, recipe: Recipe) -> Values | None:
        """The values that make ``recipe`` of this space; ``None`` where none do. The inverse of ``fill``."""
        document = recipe.document()
        values: dict[str, Value] = {}
        try:
            for hole in self.holes:
                node: Any = document
                for part in hole.path:
                    node = node[part]
                given = node if hole.gradient else [node]
                values.update(zip(hole.names, given, strict=True))
            made = self.fill({d.name: d.decode(d.encode(values[d.name])) for d in self.dimensions})
            return values if made.key() == self.fill(values).key() == recipe.key() else None
        except (KeyError, IndexError, TypeError, ValueError, RecipeError):
            return None

    def references(self) -> tuple[str, ...]:
        """Every model that some filling of the space names."""
        names = list(self.fill({d.name: d.decode(d.start) for d in self.dimensions}).references())
        for hole in self.holes:
            if hole.path[-1] in ("model", "base_model"):
                dimension = next(d for d in self.dimensions if d.name == hole.names[0])
                names += [str(c) for c in dimension.choices]
        return tuple(dict.fromkeys(names))

    def _check(self) -> None:
        """A filling at the start and at each bound must be a recipe, or a hole stands in a wrong place."""
        middle = self.start()
        self._try(middle, None)
        for i, dimension in enumerate(self.dimensions):
            for bound in dimension.span:
                vector = list(middle)
                vector[i] = bound
                self._try(vector, dimension)

    def _try(self, vector: Sequence[float], dimension: Dimension | None) -> None:
        values = self.decode(vector)
        try:
            self.fill(values)
        except RecipeError as exception:
            guilty = self._hole_at(exception.where)
            if guilty is None and dimension is None:
                raise
            # With two holes in one place (a layer range) a bound of one may clash with the middle of the
            # other; that is for the candidate to find out. A hole of the wrong kind fails at the start too.
            if guilty is not None:
                raise RecipeError(
                    _text(guilty.path), f"a hole may not stand here: {exception.reason}", exception.hint
                ) from None

    def _hole_at(self, where: str) -> Hole | None:
        return next((h for h in self.holes if where.startswith(_text(h.path))), None)


def _find_holes(node: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if any(kind in node for kind in _KINDS):
            yield path, node
            return
        for key, value in node.items():
            yield from _find_holes(value, (*path, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _find_holes(value, (*path, i))


def _parse_hole(path: Path, node: Mapping[str, Any], label: str) -> tuple[Hole, list[Dimension]]:
    where = _text(path)
    for key in node:
        if key not in _KINDS and key not in _OPTIONS:
            raise RecipeError(
                f"{where}.{key}", "a hole has no such key", did_you_mean(str(key), (*_KINDS, *_OPTIONS))
            )
    kinds = [k for k in _KINDS if k in node]
    if len(kinds) != 1:
        raise RecipeError(where, f"a hole has exactly one of float, int and choice, not {kinds}")
    kind = kinds[0]
    name = node.get("name", label)
    if not isinstance(name, str) or not name:
        raise RecipeError(f"{where}.name", f"expected a text, got {name!r}")
    points = node.get("points")
    if points is not None and (
        not isinstance(points, int) or isinstance(points, bool) or not 2 <= points <= 1000
    ):
        raise RecipeError(f"{where}.points", f"expected a whole number from 2 to 1000, got {points!r}")
    count = 1 if points is None else points
    inits = _inits(where, node.get("init"), count)
    names = (name,) if points is None else tuple(f"{name}[{i}]" for i in range(count))
    dimensions = [_dimension(where, kind, node, n, i) for n, i in zip(names, inits, strict=True)]
    return Hole(path, names, gradient=points is not None), dimensions


def _inits(where: str, init: Any, count: int) -> list[Any]:
    if not isinstance(init, list):
        return [init] * count
    if len(init) != count:
        raise RecipeError(f"{where}.init", f"has {len(init)} values for {count} points")
    return init


def _dimension(where: str, kind: Kind, node: Mapping[str, Any], name: str, init: Any) -> Dimension:
    log = node.get("log", False)
    if not isinstance(log, bool):
        raise RecipeError(f"{where}.log", f"expected true or false, got {log!r}")
    if kind == "choice":
        dimension = _choice(where, node["choice"], name, init, log=log)
    else:
        dimension = _number(where, kind, node[kind], name, init, log=log)
    return dimension


def _choice(where: str, choices: Any, name: str, init: Any, *, log: bool) -> Dimension:
    if not isinstance(choices, list) or not choices:
        raise RecipeError(f"{where}.choice", "expected a list of values")
    if not all(isinstance(c, bool | int | float | str) for c in choices):
        raise RecipeError(f"{where}.choice", "every choice must be a plain value")
    if len({(type(c), c) for c in choices}) != len(choices):
        raise RecipeError(f"{where}.choice", "a choice is listed twice")
    if log:
        raise RecipeError(f"{where}.log", "a choice has no scale")
    if init is not None and init not in choices:
        raise RecipeError(f"{where}.init", f"{init!r} is not one of the choices {choices}")
    return Dimension(name, "choice", 0, len(choices) - 1, choices=tuple(choices), init=init)


def _number(where: str, kind: Kind, bounds: Any, name: str, init: Any, *, log: bool) -> Dimension:
    valid = int if kind == "int" else (int, float)
    if (
        not isinstance(bounds, list)
        or len(bounds) != 2
        or any(
            isinstance(b, bool) or not isinstance(b, valid) or not abs(b) <= _LARGEST[kind] for b in bounds
        )
    ):
        what = "whole numbers" if kind == "int" else "numbers"
        raise RecipeError(f"{where}.{kind}", f"expected two {what} [low, high], got {bounds!r}")
    low, high = bounds
    if low >= high:
        raise RecipeError(
            f"{where}.{kind}",
            f"the lower bound {low} is not below the upper bound {high}",
            "Swap the bounds.",
        )
    if log and kind == "int":
        raise RecipeError(f"{where}.log", "only a float hole has a log scale")
    if log and low <= 0:
        raise RecipeError(f"{where}.log", f"a log scale needs a lower bound above 0, got {low}")
    if init is not None and (
        isinstance(init, bool) or not isinstance(init, valid) or not low <= init <= high
    ):
        raise RecipeError(f"{where}.init", f"{init!r} does not lie within [{low}, {high}]")
    return Dimension(name, kind, low, high, log=log, init=init)


def _labels(document: Any, paths: list[Path]) -> list[str]:
    """A short name for each hole (``math.density``), or its full path where short names collide."""
    short = [_short(document, path) for path in paths]
    return [s if short.count(s) == 1 else _text(p) for s, p in zip(short, paths, strict=True)]


def _short(document: Any, path: Path) -> str:
    """The path without ``models`` and ``parameters``, with models and filters by name instead of number."""
    text, node = "", document
    for part in path:
        parent, node = node, node[part]
        label: str | int = part
        if part in ("models", "sources", "parameters", "value"):
            continue
        if isinstance(part, int) and isinstance(node, Mapping):
            if isinstance(node.get("model"), str):
                label = node["model"].rstrip("/").split("/")[-1]
            elif isinstance(parent, list) and "value" in node:
                text += f"[{node.get('filter') or '*'}]"
                continue
        text += f"[{label}]" if isinstance(label, int) else (f".{label}" if text else label)
    return text


def _text(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


_Tree = dict[str | int, "_Tree | Hole"]
"""Keys and positions on the way to holes, without all the rest of the document."""


def _tree(holes: Iterable[Hole]) -> _Tree:
    root: _Tree = {}
    for hole in holes:
        node = root
        for part in hole.path[:-1]:
            node = cast("_Tree", node.setdefault(part, {}))  # no hole lies within another
        node[hole.path[-1]] = hole
    return root


def _fill(node: Any, tree: _Tree | Hole, values: Mapping[str, Value]) -> Any:
    """``node`` with its holes filled. Only what contains a hole is copied; the rest is shared."""
    if isinstance(tree, Hole):
        return [values[name] for name in tree.names] if tree.gradient else values[tree.names[0]]
    filled = node.copy()
    for part, below in tree.items():
        filled[part] = _fill(node[part], below, values)
    return filled
