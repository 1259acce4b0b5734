"""The digest of one lm-eval task: everything in it that decides a score, in a form that names the change."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evomerge.fitness.scored import ItemDigest, TaskDigest, short_digest

__all__ = ["digest_of_task"]

_Made = tuple[str, Mapping[str, Any], Sequence[Instance]]
"""An item: its name, its document, its requests."""

_SHORT = 8
_SHOWN = 160
"""Longest text of an aspect that is kept as it is, in characters."""


def digest_of_task(task: Task, chosen: Mapping[str, Any], items: Mapping[str, Sequence[_Made]]) -> TaskDigest:
    """``chosen`` are aspects that the experiment decides, such as metric and filter; items by split."""
    config = task.config
    instances = [instance for made in items.values() for _, _, each in made for instance in each]
    aspects = {name: str(value) for name, value in chosen.items()}
    aspects |= {
        "output type": str(task.OUTPUT_TYPE),
        "task version": str(
            task.VERSION if (config.metadata or {}).get("version") is None else config.metadata["version"]
        ),
        "metric settings": _shown([_plain(m) for m in config.metric_list or ()]),
        "filter settings": _shown(_plain(config.filter_list)),
        "generation options": _shown(_options(instances)),
        "repeats": str(config.repeats),
        "decontamination": str(config.should_decontaminate),
        "few-shot sampler": _shown(_sampler(task)),
        "the task's code": short_digest(sorted(_sources(config.__dict__.values(), task))),
    }
    return TaskDigest(
        aspects, {split: tuple(_item(task, *made) for made in each) for split, each in items.items()}
    )


def _item(task: Task, name: str, document: Mapping[str, Any], instances: Sequence[Instance]) -> ItemDigest:
    texts = [instance.args[:1] if _generates(instance) else instance.args for instance in instances]
    target = [_tried(task.doc_to_target, document)]
    if task.config.doc_to_choice is not None:
        target.append(_tried(task.doc_to_choice, document))
    question = _tried(task.doc_to_text, document)
    return ItemDigest(
        name,
        short_digest([question], _SHORT),
        short_digest(target, _SHORT),
        short_digest([list(map(str, text)) for text in texts], _SHORT),
    )


def _tried(function: Any, document: Mapping[str, Any]) -> Any:
    try:
        return function(dict(document))
    except Exception as error:  # noqa: BLE001 (some kinds of task have no target)
        return f"{type(error).__name__}: {error}"


def _generates(instance: Instance) -> bool:
    return bool(instance.request_type == "generate_until")


def _options(instances: Iterable[Instance]) -> list[Any]:
    """The distinct sets of generation options."""
    found = {json.dumps(_plain(i.args[1]), sort_keys=True): None for i in instances if _generates(i)}
    return [json.loads(text) for text in found]


def _sampler(task: Task) -> Any:
    if not task.config.num_fewshot:
        return "none"
    settings = getattr(task, "fewshot_cfg", None)
    return _plain(getattr(settings, "sampler", "default"))


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({short_digest(text)})"


def _plain(value: Any) -> Any:
    """JSON values; a function is its name, and its code counts as the task's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _sources(values: Iterable[Any], task: Task) -> Iterator[str]:
    """The code of every function in a task's definition, and of a class of its own."""
    yield _source(type(task))
    for value in values:
        if isinstance(value, Mapping):
            yield from _sources(value.values(), task)
        elif isinstance(value, list | tuple):
            yield from _sources(value, task)
        elif callable(value):
            yield _source(value)


def _source(thing: Any) -> str:
    """The module of ``thing`` without comments and layout: what a function calls stands beside it."""
    try:
        file = inspect.getsourcefile(thing)
        if file is None or ("lm_eval" in Path(file).parts and "tasks" not in Path(file).parts):
            return ""  # lm-eval's own: its version stands in the study
        return ast.unparse(ast.parse(Path(file).read_text(encoding="utf-8")))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
