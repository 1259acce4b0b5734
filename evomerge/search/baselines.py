"""The baselines of a search, and the points where it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.recipe import Dimension, Recipe, SearchSpace, parse_recipe

__all__ = ["Baseline", "baselines", "starts"]

_DTYPES = ("dtype", "out_dtype")
_KEPT = (*_DTYPES, "ignore")
_VOCABULARY = ("tokenizer_source", "tokenizer", "chat_template")


@dataclass(frozen=True)
class Baseline:
    """A model to compare with: a parent, or a merge without search. ``name`` is unique in an experiment.

    ``is_parent``: one of the models that are merged, as it is.
    """

    name: str
    recipe: Recipe
    is_parent: bool = False


def baselines(
    space: SearchSpace, experts: Sequence[str] | None = None, base_model: str | None = None
) -> tuple[Baseline, ...]:
    """The base (if there is one), each expert, their uniform average, and TIES with its defaults.

    ``base_model`` and ``experts`` are references; where not given, those of the space at its start. The
    average and TIES need two experts, TIES a base as well.
    """
    base = base_model if base_model is not None else _base_of(space)
    if experts is None:
        experts = tuple(r for r in space.references() if r != base and not r.startswith("+"))
    dtypes = _plain(space, _KEPT)
    singles = ([("base", base)] if base is not None else []) + [(_short(e), e) for e in experts]
    found = [
        (name, {"merge_method": "passthrough", "models": [{"model": m}], **dtypes}) for name, m in singles
    ]
    if len(experts) > 1:
        merged = {**dtypes, **_plain(space, _VOCABULARY)}
        models = [{"model": e, "parameters": {"weight": 1.0 / len(experts)}} for e in experts]
        found.append(("uniform", {"merge_method": "linear", "models": models, **merged}))
        if base is not None:
            ties = [{"model": e, "parameters": {"weight": 1.0, "density": 0.5}} for e in experts]
            found.append(("ties", {"merge_method": "ties", "base_model": base, "models": ties, **merged}))
    names = _unique([name for name, _ in found])
    return tuple(
        Baseline(name, parse_recipe(document), is_parent=position < len(singles))
        for position, (name, (_, document)) in enumerate(zip(names, found, strict=True))
    )


def starts(space: SearchSpace) -> tuple[tuple[float, ...], ...]:
    """Vectors for generation 0: where the space starts, the uniform average, each parent; without repetition.

    The last two only where models have a ``weight`` of their own that is searched; a weight is taken to the
    nearest bound where 0, 1 or 1/n lies outside, the other holes stay where they start.
    """
    middle = tuple(_whole(d, d.start) for d in space.dimensions)
    owners = _weight_owners(space)
    models = list(dict.fromkeys(model for found in owners.values() for model in found))
    vectors = [middle]
    if len(models) > 1:
        vectors.append(_with_weights(space, middle, dict.fromkeys(owners, 1.0 / len(models))))
        for parent in models:
            # A weight that several models share cannot single one out.
            own = {name: float(found == [parent]) for name, found in owners.items() if len(found) == 1}
            vectors.append(_with_weights(space, middle, own))
    return tuple(dict.fromkeys(vectors))


def _base_of(space: SearchSpace) -> str | None:
    """The base model of the merge, or where that is a stage, the first that a stage has."""
    recipe = space.fill(space.decode(space.start()))
    stages = {stage.name for stage in recipe.stages}
    bases = [merge.base_model for merge in (recipe, *recipe.stages)]
    return next((base for base in bases if base is not None and base not in stages), None)


def _plain(space: SearchSpace, fields: Sequence[str]) -> dict[str, Any]:
    """Those fields of the document that are set and contain no hole."""
    holes = {hole.path[0] for hole in space.holes}
    return {f: space.document[f] for f in fields if space.document.get(f) is not None and f not in holes}


def _short(reference: str) -> str:
    return reference.rstrip("/").rsplit("/", maxsplit=1)[-1] or reference


def _unique(names: Sequence[str]) -> list[str]:
    """``names`` with a number behind each that came before."""
    made: list[str] = []
    for name in names:
        again = sum(1 for m in made if m == name or m.startswith(f"{name}#"))
        made.append(f"{name}#{again + 1}" if again else name)
    return made


def _weight_owners(space: SearchSpace) -> dict[str, list[str]]:
    """The dimensions that are a model's weight, with the models whose weight they are, in document order."""
    owners: dict[str, list[str]] = {}
    for hole in space.holes:
        model = _model_of_weight(space.document, hole.path)
        if model is None:
            continue
        for name in hole.names:
            found = owners.setdefault(name, [])
            if model not in found:
                found.append(model)
    kinds = {d.name: d.kind for d in space.dimensions}
    return {name: found for name, found in owners.items() if kinds[name] != "choice"}


def _model_of_weight(document: Mapping[str, Any], path: Sequence[str | int]) -> str | None:
    """The model whose ``parameters.weight`` the hole at ``path`` stands in, at any depth of filters."""
    for i, (_, node) in enumerate(_nodes(document, path)):
        if path[i : i + 2] == ("parameters", "weight") and isinstance(node, Mapping):
            model = node.get("model")
            return model if isinstance(model, str) else None
    return None


def _nodes(document: Any, path: Sequence[str | int]) -> Iterator[tuple[str | int, Any]]:
    """Each step of ``path`` with the node it is taken from."""
    node = document
    for step in path:
        yield step, node
        node = node[step]


def _with_weights(
    space: SearchSpace, vector: Sequence[float], weights: Mapping[str, float]
) -> tuple[float, ...]:
    return tuple(
        _nearest(d, weights[d.name]) if d.name in weights else c
        for d, c in zip(space.dimensions, vector, strict=True)
    )


def _nearest(dimension: Dimension, value: float) -> float:
    inside = min(max(value, dimension.low), dimension.high)
    return _whole(dimension, dimension.encode(inside))


def _whole(dimension: Dimension, coordinate: float) -> float:
    """``coordinate`` within the span in spite of rounding, and whole where only whole ones count."""
    low, high = dimension.span
    inside = min(max(coordinate, low), high)
    return float(math.floor(inside + 0.5)) if dimension.integer else inside
