"""The ``recipe`` section of an experiment file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import ExperimentError, RecipeError
from evomerge.recipe import Document, SearchSpace

__all__ = ["searched_space"]

_MOST_REPEATED = 10_000


def searched_space(document: Document, models: Mapping[str, str]) -> SearchSpace:
    """The recipe section ``document`` as a space, with ``model: "*"`` repeated for each of ``models``.

    Raises:
        RecipeError: The recipe or a hole is wrong.
        ExperimentError: ``model: "*"`` stands for no model, or for too many.
    """
    try:
        return SearchSpace(Document(_expand_models(document, models), document.warnings, document.carriers))
    except RecipeError as exception:
        where = f"recipe.{exception.where}" if exception.where else "recipe"
        raise RecipeError(where, exception.reason, exception.hint) from None


def _expand_models(document: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any]:
    """The document with each entry ``model: "*"`` repeated for every named model but the base."""
    base = document.get("base_model")
    others = [name for name in models if name != base]
    made = 0

    def visit(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: visit(value) for key, value in node.items()}
        if isinstance(node, list):
            return [one for entry in node for one in repeat(entry)]
        return node

    def repeat(entry: Any) -> Sequence[Any]:
        if isinstance(entry, Mapping) and entry.get("model") == "*":
            if not others:
                raise ExperimentError("models", "the recipe says model: '*', but no models are named here")
            nonlocal made
            made += len(others)
            if made > _MOST_REPEATED:
                raise ExperimentError("recipe", f"model: '*' makes more than {_MOST_REPEATED} entries")
            return [{**visit(entry), "model": name} for name in others]
        return [visit(entry)]

    return {key: visit(value) for key, value in document.items()}
