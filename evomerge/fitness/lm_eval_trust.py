"""Reads untrusted task definitions as data: anything in them that would run code is refused (lm-eval 0.4.13).

A definition can name Python functions (``!function``), metrics that the hub defines by a script, datasets
with a loading script, and settings of transformers that fetch code; and its templates could reach any object
of Python. Definitions in the installed lm-eval are its code like the rest of it, and are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lm_eval.api.metrics  # registers metrics
import lm_eval.utils
import yaml
from jinja2 import Environment, Template
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager

from evomerge.errors import FitnessError
from evomerge.fitness.lm_eval_index import LOADER, reachable

__all__ = ["refuse_code", "sandbox_templates"]

_HINT = "Read it and the code it names; if you trust both, set fitness.trust_remote_code: true."

_YAML = "tag:yaml.org,2002:"


def refuse_code(manager: TaskManager, names: Sequence[str]) -> None:
    """Looks at every definition that loading ``names`` would read, with all that it includes.

    Raises:
        FitnessError: One of them would run code; file, line or field, and what to do are named.
    """
    seen: set[Path] = set()
    for name in reachable(manager, names):
        entry = manager.task_index.get(name)
        if entry is not None and entry.yaml_path is not None:
            _refuse_file(Path(entry.yaml_path), name, seen)


def sandbox_templates() -> None:
    """From now on, templates of tasks see the document that they are given and nothing else of Python.

    lm-eval renders all templates in one environment, which is open, and has no setting for another. It is
    replaced for the whole process: a task may be rendered at any time, in any thread.
    """
    opened = lm_eval.utils.env
    if isinstance(opened, SandboxedEnvironment):
        return
    if not isinstance(opened, Environment):  # it would be worse to go on without the sandbox
        raise TypeError("this version of lm-eval renders its templates in a way that is not known here")
    closed = _CompiledOnce(
        loader=opened.loader,
        undefined=opened.undefined,
        keep_trailing_newline=opened.keep_trailing_newline,
    )
    closed.filters.update(opened.filters)
    lm_eval.utils.env = closed


class _CompiledOnce(SandboxedEnvironment):
    """Compiles a template once: lm-eval asks for it again for every field of every item (4 ms each)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compiled = lru_cache(maxsize=1024)(super().from_string)

    def from_string(self, source: Any, *more: Any, **options: Any) -> Template:
        """The template of ``source``."""
        if more or options or not isinstance(source, str):
            return super().from_string(source, *more, **options)
        return self._compiled(source)


def _refuse_file(path: Path, name: str, seen: set[Path]) -> None:
    path = path.expanduser().resolve()
    if path in seen or any(path.is_relative_to(root) for root in _installed()):
        return
    seen.add(path)
    text = path.read_bytes()
    found = next(_tags(yaml.compose(text, Loader=LOADER)), None)
    document = None if found else yaml.load(text, Loader=LOADER)  # noqa: S506 (safe; no tag is left)
    found = found or next(_fields(document), None)
    if found is not None:
        raise FitnessError(f"fitness.tasks: {name}", f"{path}: {found}, and untrusted code is not run", _HINT)
    included = document.get("include", []) if isinstance(document, dict) else []
    for each in included if isinstance(included, list) else [included]:
        _refuse_file(path.parent / str(each), name, seen)


def _tags(root: Any) -> Iterator[str]:
    """What stands in the YAML that is not a plain value, with its line."""
    seen, todo = set[int](), [root] if root is not None else []
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if not node.tag.startswith(_YAML) or node.tag.startswith(f"{_YAML}python"):
            named = f" {node.value}" if isinstance(node.value, str) else ""
            tag = node.tag.replace(_YAML, "!!")
            yield f"line {node.start_mark.line + 1} names Python code ({tag}{named})"
        if isinstance(node, yaml.MappingNode):
            todo += [each for pair in reversed(node.value) for each in reversed(pair)]
        elif isinstance(node, yaml.SequenceNode):
            todo += reversed(node.value)


def _fields(root: Any) -> Iterator[str]:
    """Fields whose plain values make lm-eval or a library below it load code, at any depth."""
    seen, todo = set[int](), [(root, "")]
    while todo:
        node, place = todo.pop()
        if id(node) in seen or not isinstance(node, dict | list):
            continue
        seen.add(id(node))
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            where = f"{place}[{key}]" if isinstance(node, list) else f"{place}.{key}".lstrip(".")
            what = _loads_code(key, value)
            if what:
                yield f"{where} {what}"
            todo.append((value, where))


def _loads_code(key: Any, value: Any) -> str:
    if key == "trust_remote_code" and value:
        return "asks for code that comes with a dataset or a model"
    if key == "custom_generate" and value:
        return f"lets transformers fetch code for generating ({value!r})"
    if key == "dataset_path" and (str(value).endswith(".py") or value == "pandas"):
        return f"is a dataset that runs code when it is loaded ({value!r})"
    if key == "metric_list":
        for entry in value if isinstance(value, list) else ():
            metric = entry.get("metric") if isinstance(entry, dict) else None
            if metric is not None and (metric not in metric_registry or entry.get("hf_evaluate")):
                return f"has a metric that lm-eval does not know but loads as a script ({metric!r})"
    return ""


@cache
def _installed() -> tuple[Path, ...]:
    spec = find_spec("lm_eval.tasks")
    roots = spec.submodule_search_locations if spec is not None else None
    return tuple(Path(root).resolve() for root in roots or ())
