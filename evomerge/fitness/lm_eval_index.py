"""Finds and loads lm-eval's tasks by name without parsing its fourteen thousand definitions (6-30 s).

A scan of the raw text of the built-in definitions takes 0.2 s and tells in which folder a name is
defined; only those folders are then indexed by lm-eval itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import yaml
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from evomerge.errors import FitnessError, did_you_mean
from evomerge.fitness.lm_eval_data import LocalData, data_error

__all__ = ["LOADER", "leaves", "load_tasks", "reachable", "task_manager"]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser that lm-eval uses, so that both read the same."""

_SHOWN = 4
_DEFINED = re.compile(
    rb"""^["']?(?:task|group|tag)["']?[ \t]*:[ \t]*([^\n]*(?:\n[ \t]*-[ \t]+[^\n{:]*$)*)""", re.M
)
_GROUP_FIELDS = frozenset(("group", "group_alias", "task", "tag", "aggregate_metric_list", "metadata"))
_NAME = re.compile(rb"""[^\s"'\[\],]+""")


def task_manager(names: Sequence[str], include_paths: Sequence[Path]) -> TaskManager:
    """An index that knows ``names`` and the members of groups among them; tasks of one's own win.

    Raises:
        FitnessError: a folder does not exist, or a name is defined nowhere (near names are given).
    """
    for path in include_paths:
        if not path.is_dir():
            raise FitnessError("fitness.include_path", f"there is no folder {str(path)!r}")
    folders: tuple[Path, ...] = ()
    while True:
        # Later paths win in lm-eval, so one's own folders come last.
        paths: list[str | Path] = [*folders, *include_paths]
        manager = TaskManager(include_path=paths, include_defaults=False)
        missing = [name for name in names if name not in manager.task_index]
        unknown = [name for name in reachable(manager, names) if name not in manager.task_index]
        more = _outermost([*folders, *_folders(unknown)])
        if more != folders:
            folders = more
            continue
        if missing:
            # Members may be missing: a group can define tasks of its own in place.
            raise FitnessError(
                "fitness.tasks",
                f"lm-eval knows no task {missing[0]!r}",
                _unreadable(include_paths) or _suggestion(missing[0], manager, include_paths),
            )
        return manager


def leaves(manager: TaskManager, name: str) -> list[str]:
    """The tasks that ``name`` stands for: itself, the members of a tag (sorted), or those of a group.

    Empty for a group that changes its members (``num_fewshot`` and so on): only lm-eval can build that.
    """
    if name in manager.all_tags:
        return sorted(manager.task_index[name].tags)
    if name not in manager.all_groups:
        return [name] if name in manager.task_index else []
    config = manager.task_index[name].cfg or {}
    members = config.get("task")
    if not isinstance(members, list) or not _GROUP_FIELDS.issuperset(config):
        return []
    each = [leaves(manager, member) if isinstance(member, str) else [] for member in members]
    return list(dict.fromkeys(leaf for found in each for leaf in found)) if all(each) else []


def reachable(manager: TaskManager, names: Iterable[str]) -> list[str]:
    """``names``, and all that groups and tags among them refer to, at any depth; known or not."""
    found = dict.fromkeys(names)
    todo = list(found)
    while todo:
        name = todo.pop()
        entry = manager.task_index.get(name)
        config = entry.cfg if entry is not None else None
        tagged = sorted(entry.tags) if entry is not None and name in manager.all_tags else ()
        new = [member for member in (*_referred(config), *tagged) if member not in found]
        found.update(dict.fromkeys(new))
        todo += new
    return list(found)


def load_tasks(manager: TaskManager, name: str, where: str) -> dict[str, Task]:
    """The tasks that ``name`` stands for, with their data, by name; ``where`` names the place in errors.

    Raises:
        FitnessError: the data is not there, or lm-eval cannot build a task.
    """
    names = leaves(manager, name)
    local = [data for leaf in names if (data := _local_data(manager, leaf)) is not None]
    for data in local:
        data.check(where)
    overrides = {data.task: kwargs for data in local if (kwargs := data.override()) is not None}
    # A group written in place is lm-eval's public way to override a field of a task.
    wanted = [
        {"group": leaf, "task": [{"task": leaf, "dataset_kwargs": overrides[leaf]}]}
        if leaf in overrides
        else leaf
        for leaf in names
    ]
    try:
        with _silent():
            tasks = dict(manager.load(wanted or [name])["tasks"])
    except Exception as error:  # the data; YAML, templates and code of the task
        raise data_error(error, where, local) from error
    if not tasks:
        raise FitnessError(where, "the group has no members")
    return tasks


def _local_data(manager: TaskManager, name: str) -> LocalData | None:
    entry = manager.task_index[name]
    return LocalData.of(name, entry.yaml_path, entry.cfg or {})


def _suggestion(name: str, manager: TaskManager, include_paths: Sequence[Path]) -> str:
    near = did_you_mean(name, [*manager.all_tasks, *_builtin()])
    where = "fitness.include_path names the folders searched besides lm-eval's own."
    if not include_paths:
        where = "Tasks of your own need their folder in fitness.include_path."
    return f"{near} {where}" if near.startswith("Did you mean") else where


def _unreadable(folders: Sequence[Path]) -> str:
    """The definitions in ``folders`` that lm-eval passes over, as they cannot be read or are not YAML."""
    faults: list[str] = []
    for folder in folders:
        if not os.access(folder, os.R_OK | os.X_OK):
            faults.append(f"{folder} cannot be read (Permission denied)")
            continue
        for file in sorted(folder.rglob("*.yaml")):
            try:
                yaml.compose(file.read_bytes(), Loader=LOADER)
            except OSError as error:
                faults.append(f"{file} cannot be read ({error.strerror})")
            except yaml.YAMLError as error:
                mark = getattr(error, "problem_mark", None)
                line = f" (line {mark.line + 1})" if mark is not None else ""
                faults.append(f"{file} is not valid YAML{line}")
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return f"Not read: {'; '.join(faults[:_SHOWN])}{more}." if faults else ""


def _referred(config: dict[str, Any] | None) -> Iterator[str]:
    listed = (config or {}).get("task")
    for member in listed if isinstance(listed, list) else ():
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            name = member.get("task", member.get("group"))
            if isinstance(name, str):
                yield name
            yield from _referred(member)


def _folders(names: Iterable[str]) -> list[Path]:
    known = _builtin()
    return [folder for name in names for folder in known.get(name, ())]


def _outermost(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Each folder once, without those inside another, in a fixed order."""
    kept: list[Path] = []
    for folder in sorted(set(folders)):
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return tuple(kept)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No progress bars, and no log of errors that are raised as well."""
    shown, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not shown:
            datasets.enable_progress_bars()


@cache
def _builtin() -> dict[str, tuple[Path, ...]]:
    """Folders of lm-eval's own definitions by the task, group and tag names in them."""
    spec = find_spec("lm_eval.tasks")
    folders: dict[str, dict[Path, None]] = {}
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in _definitions(root):
            with open(path, "rb") as file:  # noqa: PTH123 (14,000 of them: Path.open doubles the time)
                text = file.read()
            for value in _DEFINED.findall(text):
                for name in _NAME.findall(value):
                    folders.setdefault(name.decode("utf-8", "replace"), {})[Path(path).parent] = None
    return {name: tuple(found) for name, found in folders.items()}


def _definitions(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _definitions(entry.path)
            elif entry.name.endswith("yaml") or "." not in entry.name:  # templates: _template_yaml, flores
                yield entry.path
