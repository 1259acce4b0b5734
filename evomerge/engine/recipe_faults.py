"""Finds all faults of a recipe, so that they are reported at once.

Whether a merge can run is decided by its plan, which stops at the first fault. After that, this module looks
for others: unknown names and values out of bounds, everywhere in the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.engine.dtypes import check_dtype
from evomerge.errors import RecipeError, UserError, did_you_mean, together
from evomerge.methods import Base, MergeMethod, get_method, methods
from evomerge.recipe import Recipe, load_recipe, normalise, read_recipe, wrong_fields

__all__ = ["load_whole", "with_faults"]

_Scope = tuple[str, Mapping[str, Any], bool]
"""Place, parameters, and whether they count for all models."""


def load_whole(path: Path) -> Recipe:
    """The recipe in the YAML file ``path``, read as by ``load_recipe``, but all faults are reported.

    Raises:
        RecipeError: The file is not a recipe; all wrong fields are named.
    """
    try:
        return load_recipe(path)
    except RecipeError as exception:
        try:
            document, _ = normalise(read_recipe(path))
        except UserError:  # not YAML
            raise exception from None
        errors = [*wrong_fields(Recipe, document), *_faults(document)]
        if len(errors) < 2:
            raise
        raise together(errors, "fields are wrong").within(str(path)) from None


def with_faults(error: UserError, recipe: Recipe) -> UserError:
    """``error``, at which the merge of ``recipe`` stopped, with all other faults of the recipe."""
    found = _faults(recipe.document())
    is_known = isinstance(error, RecipeError) and any(_field(error) == _field(each) for each in found)
    if not found or (is_known and len(found) == 1):
        return error
    return together(found if is_known else [error, *found], "faults were found")


def _field(error: UserError) -> str:
    return error.where.rpartition(".")[2]


def _faults(document: Mapping[str, Any]) -> list[RecipeError]:
    stages = document.get("stages")
    places = [(f"stages[{i}].", s) for i, s in enumerate(stages if isinstance(stages, list | tuple) else ())]
    return [
        RecipeError(f"{place}{each.where}", each.reason, each.hint)
        for place, merge in [*places, ("", document)]
        if isinstance(merge, Mapping)
        for each in _faults_of(merge)
    ]


def _faults_of(merge: Mapping[str, Any]) -> Iterator[UserError]:
    """The faults of one merge, without its stages."""
    method = None
    if isinstance(merge.get("merge_method"), str):
        try:
            method = get_method(merge["merge_method"])
        except RecipeError as error:
            yield error
    for field in ("dtype", "out_dtype"):
        if isinstance(merge.get(field), str):
            try:
                check_dtype(field, merge[field])
            except RecipeError as error:
                yield error
    if method is not None and method.base is Base.REQUIRED and not _has_base(merge):
        yield RecipeError("base_model", f"{method.name} needs a base_model")
    for place, parameters, is_wide in _scopes(merge):
        for name, setting in parameters.items():
            yield from _setting_faults(method, f"{place}.{name}", str(name), setting, is_wide=is_wide)


def _has_base(merge: Mapping[str, Any]) -> bool:
    slices = [s for part in (merge, *_modules(merge).values()) for s in _entries(part, "slices")]
    return any(part.get("base_model") is not None for part in (merge, *slices))


def _setting_faults(
    method: MergeMethod | None, place: str, name: str, setting: Any, *, is_wide: bool
) -> Iterator[RecipeError]:
    known = {p for each in methods() for p in each.parameters}
    if name not in known:
        if method is None:
            yield RecipeError(
                place, "no merge method has such a parameter", did_you_mean(name, sorted(known))
            )
        else:
            reason = f"{method.name} has no such parameter"
            yield RecipeError(place, reason, did_you_mean(name, method.parameters))
        return
    parameter = method.parameters.get(name) if method is not None else None
    if parameter is None or not (parameter.per_model or is_wide):  # it has no effect, which is a warning
        return
    for value in _values(setting):
        try:
            parameter.check(value)
        except ValueError as exception:
            yield RecipeError(place, str(exception))
            return


def _values(setting: Any) -> Iterator[Any]:
    """The values in a setting: a value, a gradient, entries with filters."""
    if isinstance(setting, Mapping):
        yield from _values(setting.get("value"))
    elif isinstance(setting, list | tuple):
        for each in setting:
            yield from _values(each)
    elif setting is not None:
        yield setting


def _scopes(merge: Mapping[str, Any]) -> Iterator[_Scope]:
    """Every part of one merge that has parameters; malformed ones are left to the schema."""
    for module, part in (("", merge), *((f"modules.{n}.", m) for n, m in _modules(merge).items())):
        for i, source in enumerate(_entries(part, "models")):
            yield f"{module}models[{i}].parameters", _parameters(source), False
        for i, slice_ in enumerate(_entries(part, "slices")):
            for j, source in enumerate(_entries(slice_, "sources")):
                yield f"{module}slices[{i}].sources[{j}].parameters", _parameters(source), False
            yield f"{module}slices[{i}].parameters", _parameters(slice_), True
        yield f"{module}parameters", _parameters(part), True


def _modules(merge: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    modules = merge.get("modules")
    return (
        {k: m for k, m in modules.items() if isinstance(m, Mapping)} if isinstance(modules, Mapping) else {}
    )


def _entries(node: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """The entries of a list; for each that is malformed an empty one, so that others keep their places."""
    listed = node.get(field)
    return [e if isinstance(e, Mapping) else {} for e in listed] if isinstance(listed, list | tuple) else []


def _parameters(node: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = node.get("parameters")
    return parameters if isinstance(parameters, Mapping) else {}
