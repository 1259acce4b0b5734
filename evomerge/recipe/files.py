"""Recipes and other YAML documents: reading, writing, and one clear error."""

from __future__ import annotations

import codecs
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from evomerge.errors import OutputError, RecipeError, UserError, did_you_mean, together
from evomerge.recipe.dialect import MISPLACED, normalise
from evomerge.recipe.loader import MAX_YAML_NODES, Document, load_documents
from evomerge.recipe.model import Recipe

__all__ = [
    "dump_recipe",
    "load_recipe",
    "parse",
    "parse_recipe",
    "read_recipe",
    "read_yaml",
    "write_whole",
    "wrong_fields",
]

_Model = TypeVar("_Model", bound=BaseModel)

MAX_YAML_BYTES = 2**20
MAX_YAML_DEPTH = 50


def read_yaml(path: Path, error: type[UserError] = RecipeError) -> Document:
    """The mapping in the YAML file ``path``, with warnings of the reader.

    Raises:
        UserError: of type ``error``: the file cannot be read, is not YAML, or does not hold a mapping.
    """
    return parse_yaml(_text(path, error), str(path), error)


def read_recipe(path: Path, error: type[UserError] = RecipeError) -> Document:
    """The recipe in the YAML file ``path``; of several documents, the others become its ``stages``.

    The main one is the document without a name, or else the last.

    Raises:
        UserError: of type ``error``: the file cannot be read, is not YAML, or more than one has no name.
    """
    documents = _documents(_text(path, error), str(path), error)
    if len(documents) == 1:
        return documents[0]
    unnamed = [d for d in documents if d.get("name") is None]
    if len(unnamed) > 1:
        raise error(
            str(path),
            f"{len(unnamed)} of {len(documents)} documents have no name",
            "Name all but the last, so that others can use them as models.",
        )
    main = unnamed[0] if unnamed else documents[-1]
    if "stages" in main:
        raise error(str(path), "a file with several documents has no field 'stages': they are the stages")
    stages = [d for d in documents if d is not main]
    return Document({**main, "stages": stages}, main.warnings, main.carriers)


def parse_yaml(text: str, where: str, error: type[UserError] = RecipeError) -> Document:
    """The mapping in the YAML ``text``; ``where`` names it in errors."""
    documents = _documents(text, where, error)
    if len(documents) > 1:
        raise error(where, f"expected one YAML document, got {len(documents)}")
    return documents[0]


def _text(path: Path, error: type[UserError]) -> str:
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise error(
                str(path), f"the file is larger than {MAX_YAML_BYTES // 2**20} MiB, too large for a recipe"
            )
        return _decode(path.read_bytes())
    except FileNotFoundError:
        near = did_you_mean(path.name, (p.name for p in sorted(path.parent.glob("*.y*ml"))))
        raise error(str(path), "there is no such file", near) from None
    except (OSError, ValueError) as exception:  # a name with a null character is a ValueError
        raise error(str(path), f"cannot be read ({exception})") from None


def _decode(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 where the first bytes say so (YAML 1.1, section 5.2); without a BOM."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if len(data) > 1 and data[1] == 0 != data[0]:
        return data.decode("utf-16-le")
    if len(data) > 1 and data[0] == 0 != data[1]:
        return data.decode("utf-16-be")
    return data.decode("utf-8-sig")


def _documents(text: str, where: str, error: type[UserError]) -> list[Document]:
    try:
        documents = load_documents(text, frozenset(Recipe.model_fields))
    except yaml.YAMLError as exception:
        mark = getattr(exception, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(exception, "problem", None) or str(exception)
        if problem == "second occurrence":  # of an anchor; PyYAML says which only in the context
            problem = str(exception).partition(";")[0]
        hint = "Keep one of them." if "given twice" in problem else ""
        raise error(where, f"{place}not valid YAML ({problem})", hint) from None
    except (
        ValueError,
        LookupError,
        OverflowError,
        RecursionError,
    ) as exception:  # !!int x, !!bool x, [[[[...
        raise error(where, f"not valid YAML ({type(exception).__name__})") from None
    # An empty document is what a stray '---' leaves behind.
    documents = [d for d in documents if d is not None] if len(documents) > 1 else documents
    for document in documents or [None]:
        if not isinstance(document, dict):
            raise error(where, f"expected a mapping of fields at the top, got {type(document).__name__}")
    nodes, depth = _extent(documents)
    if nodes > MAX_YAML_NODES:
        raise error(where, f"expands to more than {MAX_YAML_NODES} values", "Remove the repeated aliases.")
    if depth > MAX_YAML_DEPTH:
        raise error(
            where, f"is nested more than {MAX_YAML_DEPTH} levels deep, which is more than a recipe needs"
        )
    return documents


def parse(model: type[_Model], document: Mapping[str, Any], error: type[UserError] = RecipeError) -> _Model:
    """``document`` as ``model``; every wrong field in one error of type ``error``.

    Raises:
        UserError: of type ``error``, naming each field, with a suggestion for unknown keys.
    """
    try:
        return model.model_validate(document)
    except ValidationError as exception:
        raise together(_errors(exception, model, error), "fields are wrong") from None


def wrong_fields(
    model: type[BaseModel], document: Mapping[str, Any], error: type[UserError] = RecipeError
) -> list[UserError]:
    """Each field of ``document`` that does not fit ``model``, as an error of its own."""
    try:
        model.model_validate(document)
    except ValidationError as exception:
        return _errors(exception, model, error)
    return []


def _errors(exception: ValidationError, model: type[BaseModel], error: type[UserError]) -> list[UserError]:
    problems = _innermost(exception.errors(include_url=False))
    told = [_describe(problem, model) for problem in problems]
    # Where a value may be one of two things, pydantic says of each why it is not.
    first = {place: (place, reason, hint) for place, reason, hint in reversed(told)}
    return [error(*first[place]) for place in dict.fromkeys(place for place, _, _ in told)]


def parse_recipe(document: Mapping[str, Any]) -> Recipe:
    """``document`` as a Recipe, in the spellings that people use; its ``warnings`` say what was ignored.

    Raises:
        RecipeError: naming each wrong field.
    """
    normal, warnings = normalise(document)
    return parse(Recipe, normal, RecipeError).with_warnings(warnings)


def load_recipe(path: Path) -> Recipe:
    """The recipe in the YAML file ``path``.

    Raises:
        RecipeError: naming the file and each wrong field.
    """
    document = read_recipe(path)
    try:
        return parse_recipe(document)
    except UserError as exception:
        raise exception.within(str(path)) from None


def dump_recipe(recipe: Recipe, path: Path | None = None, comments: Iterable[str] = ()) -> str:
    """The YAML of ``recipe`` with ``comments`` at its head; written to ``path`` if one is given.

    Raises:
        OutputError: ``path`` cannot be written; then it is as it was.
    """
    head = "".join(f"# {line}\n" for line in comments)
    documents = [stage.document() for stage in recipe.stages]
    documents.append({k: v for k, v in recipe.document().items() if k != "stages"})
    text = head + yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
    if path is not None:
        write_whole(path, text)
    return text


def _extent(documents: list[Document]) -> tuple[int, int]:
    """Values in ``documents`` with every alias counted as often as it is used, and the depth of the nesting;
    both only up to their limits, as an alias may stand within what it means.
    """
    level: list[Any]
    count, depth, level = 0, 0, documents
    while level and count <= MAX_YAML_NODES and depth <= MAX_YAML_DEPTH:
        below: list[Any] = []
        for node in level:
            count += 1
            if isinstance(node, dict):
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            if len(below) > MAX_YAML_NODES:
                return len(below), depth
        level, depth = below, depth + 1
    return count, depth


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all; folders above it are made.

    Raises:
        OutputError: It cannot be written; then what was there before is unchanged.
    """
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A name of its own: NAME.partial could be a file of the user's.
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as file:
                partial = Path(file.name)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.chmod(0o666 & ~_umask())  # temporary files are for their owner alone
            partial.replace(path)
        finally:
            if partial is not None:
                partial.unlink(missing_ok=True)
    except OSError as exception:
        raise OutputError(str(path), f"cannot be written ({exception.strerror})") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _innermost(problems: list[Any]) -> list[Any]:
    """Without the errors whose place encloses another's: pydantic reports a container for its children.

    Of the forms that a field may have, the first is meant where none fits.
    """
    places = [tuple(p["loc"]) for p in problems]
    enclosing = {place[:length] for place in places for length in range(len(place))}
    meant: dict[tuple[int | str, ...], int | str] = {}
    kept = []
    for problem, place in zip(problems, places, strict=True):
        at = next((i for i, part in enumerate(place) if _is_form(part)), None)
        other_form = at is not None and meant.setdefault(place[:at], place[at]) != place[at]
        if place not in enclosing and not other_form:
            kept.append({**problem, "loc": tuple(part for part in place if not _is_form(part))})
    return kept


def _is_form(part: int | str) -> bool:
    """Whether this part of a place is pydantic's name for one of the forms of a field."""
    return isinstance(part, str) and part.startswith("function-")


def _describe(problem: Any, model: type[BaseModel]) -> tuple[str, str, str]:
    place = _place(problem["loc"])
    if problem["type"] == "extra_forbidden":
        known, name = _fields_at(model, problem["loc"][:-1]), str(problem["loc"][-1])
        if "parameters" in known and name in MISPLACED:
            return place, "there is no such field", "Put it under 'parameters'."
        return place, "there is no such field", did_you_mean(name, known)
    reason = problem["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:] if reason[:2] != reason[:2].upper() else reason
    given = problem.get("input")
    if problem["type"] not in ("missing", "value_error") and isinstance(given, str | int | float | bool):
        reason += f", got {given!r}"
    return place, reason, str(problem.get("ctx", {}).get("hint", ""))


def _place(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        if isinstance(part, str) and part.startswith("function-"):  # pydantic's name of a choice
            continue
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text or "the top level"


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the schema that ``loc`` points into."""
    current: Any = model
    for part in loc:
        models = _models_in(current)
        if isinstance(part, int):
            continue
        nexts = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if nexts:
            current = nexts[0]
    return [name for m in _models_in(current) for name in m.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]
