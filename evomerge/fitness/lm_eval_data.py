"""The data of lm-eval's tasks: where their files lie, and which place is at fault where they cannot be read.

An error of a library names what it was doing (fetching, generating), not what is wrong: a file that may not
be read, a cache that may not be written, a line that is not JSON.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub

from evomerge.checkpoints.files import closed_folder
from evomerge.errors import FitnessError

__all__ = ["LocalData", "data_error"]

_FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")
_SHOWN = 4
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PATH = re.compile(r"'(/[^']+)'")
"""A path in the text of an error of Arrow, which sets no ``filename``."""


@dataclass(frozen=True)
class LocalData:
    """The data files of one task as its YAML names them (``dataset_kwargs: {data_files: ...}``).

    ``folder`` is that of the YAML: files are looked up there, then below the current folder.
    """

    task: str
    folder: Path
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    named: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: str, yaml_path: Any, config: Mapping[str, Any]) -> LocalData | None:
        """``None`` where the task names no local files."""
        kwargs = config.get("dataset_kwargs") or {}
        if yaml_path is None or config.get("dataset_path") not in _FILE_FORMATS or "data_files" not in kwargs:
            return None
        # A data_dir is where datasets looks for them.
        local = tuple(f for f in _texts(kwargs["data_files"]) if "://" not in f and "data_dir" not in kwargs)
        return cls(task, Path(yaml_path).resolve().parent, kwargs, local)

    def override(self) -> dict[str, Any] | None:
        """Fields of the task with absolute paths of files next to its YAML; ``None`` if all are absolute.

        lm-eval takes them relative to the current folder, so a task would work from one folder only.
        """
        files = self._absolute(self.kwargs["data_files"])
        return None if files == self.kwargs["data_files"] else {**self.kwargs, "data_files": files}

    def check(self, where: str) -> None:
        """Check that every file is there, can be read and is not empty.

        Raises:
            FitnessError: One is not; the file is named.
        """
        for named in self.named:
            found = self._found(named)
            if not found:
                raise FitnessError(where, f"its data is not there: {self._missing(named)}")
            for file in found:
                if file.is_dir():
                    raise FitnessError(where, f"its data file {file} is a folder")
                if not os.access(file, os.R_OK):
                    raise FitnessError(
                        where, f"its data file {file} cannot be read (Permission denied)", "Check its mode."
                    )
            if not any(file.stat().st_size for file in found):
                raise FitnessError(where, f"its data is empty ({_listed(found)})")

    def files(self) -> list[Path]:
        """All files that are there."""
        return [file for named in self.named for file in self._found(named)]

    def _absolute(self, files: Any) -> Any:
        if isinstance(files, dict):
            return {key: self._absolute(value) for key, value in files.items()}
        if isinstance(files, list | tuple):
            return [self._absolute(value) for value in files]
        if isinstance(files, str) and "://" not in files and _matches(self.folder, files):
            return str(self.folder / files)
        return files

    def _found(self, named: str) -> list[Path]:
        return _matches(self.folder, named) or _matches(Path.cwd(), named)

    def _missing(self, named: str) -> str:
        if glob.has_magic(named):
            return f"no file matches {self.folder / named}"
        for file in (self.folder / named, Path(named).absolute()):
            closed = closed_folder(file)
            if closed is not None:
                return f"{file} cannot be looked up (no permission for {closed})"
            if file.is_symlink():
                return f"{file} is a link to {file.readlink()}, which does not exist"
        return f"there is no file {self.folder / named}"


def data_error(error: Exception, where: str, local: Sequence[LocalData]) -> FitnessError:
    """What ``error``, raised while tasks were built, means: the file or cache at fault, and what to do.

    ``local`` are the data files of these tasks.
    """
    chain = list(_chain(error))
    at_fault = next((found for e in chain if (found := _at_path(e)) is not None), None)
    if at_fault is not None:
        return _file_error(*at_fault, where)
    if any((getattr(e, "errno", None) in _FULL) for e in chain):
        return FitnessError(where, f"its data cannot be prepared in {_cache()} (no space left)", _MOVE)
    if any(frame == "datasets.arrow_reader" for e in chain for frame in _modules(e)):
        return FitnessError(
            where,
            f"the copy of its data in the cache {_cache()} is damaged ({_first_line(chain[-1])})",
            "Delete the folder of this dataset in the cache; it is made again.",
        )
    if isinstance(error, OSError):
        return _absence(error, where)
    broken = next((text for data in local for file in data.files() if (text := _bad_json(file))), None)
    if broken is not None:
        return FitnessError(where, f"its data file {broken}")
    if isinstance(error, IndexError | StopIteration):
        return FitnessError(where, "it has no documents", "Check its dataset and test_split.")
    if any(name.startswith("datasets.") for e in chain for name in _modules(e)):
        files = _listed([file for data in local for file in data.files()])
        place = f" in {files}" if files else ""
        return FitnessError(
            where, f"its data{place} cannot be read ({type(chain[-1]).__name__}: {_first_line(chain[-1])})"
        )
    return FitnessError(where, f"lm-eval cannot build it ({type(error).__name__}: {_first_line(error)})")


def _absence(error: OSError, where: str) -> FitnessError:
    """Data that is not on this machine, or not where the task says."""
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):  # a FileNotFoundError, but of the hub
        return FitnessError(where, f"its dataset cannot be found ({_first_line(error)})", _fetch_hint())
    if "://" in str(error):
        return FitnessError(where, f"its data cannot be fetched ({_first_line(error)})")
    if not isinstance(error, FileNotFoundError):
        return FitnessError(where, f"its dataset cannot be fetched ({_first_line(error)})", _fetch_hint())
    hint = "data_files lie relative to the task's YAML file, a dataset_path to the current folder."
    return FitnessError(where, f"its data is not there ({_first_line(error)})", hint)


_MOVE = "Set HF_HOME to a folder that you may write."


def _file_error(error: OSError, path: Path, where: str) -> FitnessError:
    """An error of the operating system at ``path``: of a cache, or of a file of the user's."""
    why = os.strerror(error.errno) if error.errno else _first_line(error)
    for cache, variable in ((_cache(), "HF_DATASETS_CACHE"), (_hub_cache(), "HF_HUB_CACHE")):
        # One may be a part of the other's parent; the parent of a cache that cannot be made is named, too.
        if path.is_relative_to(cache) or cache.is_relative_to(path):
            return FitnessError(
                where,
                f"the cache for prepared data cannot be used ({path}: {why})",
                f"Set HF_HOME (or {variable}) to a folder that you may write; it is {cache} now.",
            )
    if isinstance(error, FileNotFoundError):
        return FitnessError(where, f"its data is not there ({path})")
    return FitnessError(where, f"{path} cannot be read ({why})")


def _at_path(error: BaseException) -> tuple[OSError, Path] | None:
    """The error and the path it is about, where it is one of the operating system."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if isinstance(error.filename, str | bytes | Path):
        return error, Path(os.fsdecode(error.filename))
    match = _PATH.search(str(error))
    return (error, Path(match.group(1))) if match is not None else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _modules(error: BaseException) -> Iterator[str]:
    """The modules through which ``error`` went."""
    trace = error.__traceback__
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__"))
        trace = trace.tb_next


def _bad_json(file: Path) -> str:
    """File, line and reason, where ``file`` is called JSON and is not."""
    if file.suffix not in (".json", ".jsonl"):
        return ""
    try:
        text = file.read_bytes()
    except OSError:
        return ""
    try:
        json.loads(text)  # one document
    except (ValueError, RecursionError):
        pass
    else:
        return ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line.strip():
                json.loads(line)
        except UnicodeDecodeError:
            return f"{file} is not in UTF-8 (line {number})"
        except (ValueError, RecursionError) as error:
            return f"{file} is not valid JSON (line {number}: {getattr(error, 'msg', 'nested too deep')})"
    return ""


def _matches(folder: Path, named: str) -> list[Path]:
    """What ``named``, which may be a pattern, stands for in ``folder``; nothing where that is closed."""
    if os.path.exists(folder / named):  # noqa: PTH110 (Path.exists raises where a folder is closed)
        return [folder / named]
    if not glob.has_magic(named):
        return []
    return [folder / name for name in sorted(glob.glob(named, root_dir=folder, recursive=True))]  # noqa: PTH207


def _texts(files: Any) -> Iterator[str]:
    if isinstance(files, str):
        yield files
    elif isinstance(files, dict | list | tuple):
        for each in files.values() if isinstance(files, dict) else files:
            yield from _texts(each)


def _listed(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(map(str, files[:_SHOWN])) + more


def _cache() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE)


def _hub_cache() -> Path:
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def _fetch_hint() -> str:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return (
            f"HF_HUB_OFFLINE is set and {_cache()} does not hold it. Fetch it once with a connection (and "
            "without HF_HUB_OFFLINE=1), or use a task with local files."
        )
    return "Fetch it once with a connection, or use a task with local files."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
