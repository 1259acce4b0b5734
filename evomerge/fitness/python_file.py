"""A class in a file of the user's: loaded without a trace in ``sys.path``, with a digest of its code."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import tokenize
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from evomerge.errors import FitnessError, did_you_mean
from evomerge.fitness.scored import short_digest

__all__ = ["PythonClass", "load_class", "place_in"]


@dataclass(frozen=True)
class PythonClass:
    """A class, the file that defines it, and a digest of that file and of what it imports from its folder.

    Comments and layout are not part of the digest.
    """

    value: type[Any]
    file: Path
    code: str


def load_class(file: Path, name: str, where: str) -> PythonClass:
    """The class ``name`` of ``file``, whose code runs; modules beside it can be imported at its top.

    Each call runs the code again, under a module name that only this file has. The modules beside it are
    forgotten afterwards, so that two folders may have modules of one name.

    Raises:
        FitnessError: There is no such file or class, or its code fails; ``where`` names the task.
    """
    if not file.is_file():
        raise FitnessError(where, f"there is no file {str(file)!r}")
    module, beside = _run(file, where)
    found = vars(module).get(name)
    if not inspect.isclass(found):
        known = [n for n, value in vars(module).items() if inspect.isclass(value) and _is_own(value, module)]
        raise FitnessError(where, f"{file.name} has no class {name!r}", did_you_mean(name, known))
    files = sorted({file, *(Path(str(m.__file__)) for m in beside)})
    code = [[str(each.relative_to(file.parent)), _code(each)] for each in files]
    return PythonClass(found, file, short_digest(code))


def place_in(file: Path, error: BaseException) -> str:
    """``FILE, line N``: the last line of ``error`` in the folder of ``file``, where there is one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(file.parent)]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else file.name


class _NoBytecode(SourceFileLoader):
    """Reads the source each time: bytecode is as old as its file to the second, and is written beside it."""

    def path_stats(self, path: str) -> Any:
        raise OSError(path)


def _run(file: Path, where: str) -> tuple[ModuleType, list[ModuleType]]:
    name = f"evomerge_task_{short_digest(str(file))}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_NoBytecode(name, str(file)))
    assert spec is not None  # noqa: S101 (the loader is given)
    assert spec.loader is not None  # noqa: S101
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _imports_from(file.parent) as beside:
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        told = f"{place_in(file, error)}: {type(error).__name__}: {error}"
        raise FitnessError(where, f"{file.name} cannot be imported ({told})") from error
    return module, beside


@contextmanager
def _imports_from(folder: Path) -> Iterator[list[ModuleType]]:
    """Modules of ``folder`` can be imported; afterwards the list holds them, and ``sys.modules`` does not."""
    before, beside = set(sys.modules), list[ModuleType]()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield beside
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n not in before]:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin is not None and Path(origin).is_relative_to(folder) and not _is_task(name):
                beside.append(sys.modules.pop(name))


def _is_task(name: str) -> bool:
    return name.startswith("evomerge_task_")


def _is_own(value: type[Any], module: ModuleType) -> bool:
    return value.__module__ == module.__name__


def _code(file: Path) -> str:
    with tokenize.open(file) as source:
        return ast.unparse(ast.parse(source.read()))
