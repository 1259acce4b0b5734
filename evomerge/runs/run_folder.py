"""The folder of a run: its ``run.json``, and whether a search may write there."""

from __future__ import annotations

import json
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import OutputError
from evomerge.recipe import write_whole

if TYPE_CHECKING:
    from evomerge.runs.experiment import Experiment

__all__ = [
    "RUN_FILE",
    "RunFile",
    "check_folder",
    "check_recipe_target",
    "check_run_folder",
    "run_file_kind",
    "write_run_file",
]

RUN_FILE = "run.json"

_SHOWN = 5
_UNOWNED = {".DS_Store", ".gitignore", ".gitkeep", "lost+found"}
"""Names that do not count as files of the user."""


class RunFile(Enum):
    """Who wrote the ``run.json`` of a folder."""

    ABSENT = "absent"
    OURS = "ours"
    OTHER = "other"


def write_run_file(folder: Path, experiment: Experiment) -> None:
    """Write ``run.json`` beside the study, from which ``status`` and ``export`` find it again.

    A storage elsewhere is not named: its URL may hold a password.
    """
    document = {
        "study": experiment.name,
        "storage": "study.db" if experiment.spec.storage is None else None,
        "experiment": str(experiment.path.resolve()),
    }
    write_whole(folder / RUN_FILE, json.dumps(document, indent=2) + "\n")


def run_file_kind(folder: Path) -> RunFile:
    """Whether a search wrote the ``run.json`` of ``folder``; an empty or damaged one may be written again
    if there is a study beside it.
    """
    file = folder / RUN_FILE
    if not (file.exists() or file.is_symlink()):
        return RunFile.ABSENT
    if file.is_symlink() or not file.is_file():
        return RunFile.OTHER
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        is_ours = file.stat().st_size == 0 or (folder / "study.db").is_file()
    else:
        is_ours = isinstance(run, dict) and {"study", "experiment"} <= run.keys()
    return RunFile.OURS if is_ours else RunFile.OTHER


def check_folder(folder: Path, file: Path | None = None) -> None:
    """Check that a folder (for ``file``) can be made, or written if it is there; it is not made here."""
    what, is_for = ("this folder", folder) if file is None else ("its folder", file)
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir():
        raise OutputError(str(is_for), f"{what} cannot be made: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        is_mounted_so = os.statvfs(there).f_flag & os.ST_RDONLY
        why = "Read-only file system" if is_mounted_so else f"no permission for {there}"
        raise OutputError(str(is_for), f"{what} cannot be written ({why})")


def check_run_folder(folder: Path, experiment: Path, storage: Path | None) -> None:
    """Check that the folder is new, empty or a run's: ``run.json`` would lie among (or over) a user's files.

    Raises:
        OutputError: It holds other files, or a ``run.json`` that no search wrote.
    """
    hint = "Name a new or empty folder with --out or output.dir; the run's files would lie among these."
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    except OSError as exception:
        raise OutputError(str(folder), f"this folder cannot be read ({exception.strerror})") from None
    kind = run_file_kind(folder)
    if kind is RunFile.OTHER:
        raise OutputError(str(folder), f"is not a run's folder: no search wrote its {RUN_FILE}", hint)
    # A search that is killed early leaves a study and no run.json.
    own = {RUN_FILE, f".{RUN_FILE}", "study.db"}
    own |= {f.name for f in (storage, experiment) if f is not None and _lies_in(f, folder)}
    beside = tuple(f"{name}{mark}" for name in own for mark in "-.")  # study.db-wal, study.log.lock
    foreign = [name for name in names if name not in own | _UNOWNED and not name.startswith(beside)]
    if kind is not RunFile.OURS and foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        told = ", ".join(foreign[:_SHOWN]) + more
        raise OutputError(str(folder), f"is neither empty nor a run's folder: it holds {told}", hint)


def _lies_in(file: Path, folder: Path) -> bool:
    return file.absolute().parent.resolve() == folder.resolve()


def check_recipe_target(path: Path) -> None:
    """Check that ``export`` may write ``path``: a new file, or one that an export wrote.

    Raises:
        OutputError: It is a folder, a link, or a file of another kind.
    """
    hint = "Name another file with -o, or - for standard output."
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OutputError(str(path), "is a link" if path.is_symlink() else "is not a file", hint)
    if path.exists():
        try:
            head = path.read_bytes()[:64]
        except OSError as exception:
            raise OutputError(str(path), f"cannot be read ({exception.strerror})", hint) from None
        if not head.startswith(b"# evomerge "):
            raise OutputError(str(path), "exists, and no export wrote it", hint)
