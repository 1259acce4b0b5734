"""Where a model may be written: only over an earlier merge, and not into the inputs of the merge."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoints.manifest import FolderContent, read_folder
from evomerge.errors import OutputError

__all__ = ["Protected", "check_target", "output_path"]

_RUN_FILES = ("run.json", "study.db")
_SHOWN = 5


@dataclass(frozen=True)
class Protected:
    """A folder (or the folder of a file) that an output must neither be nor contain."""

    path: Path
    what: str
    """For the message: ``the input model 'base'``."""
    inside: bool = False
    """Whether an output must not lie inside it either."""


def output_path(path: Path) -> Path:
    """``path`` as it is written to: absolute, ``~`` and ``..`` resolved, links above it too, but not itself.

    Raises:
        OutputError: It cannot be a path, or names a home folder that does not exist.
    """
    try:
        whole = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 (leaves an unknown ~name as it is)
        if whole.name in ("", ".."):
            return whole.resolve()
        return whole.parent.resolve() / whole.name
    except (OSError, ValueError, RuntimeError) as exception:
        raise OutputError(str(path), f"this path cannot be written ({exception})") from None


def check_target(path: Path, protected: Iterable[Protected] = (), *, overwrite: bool = False) -> None:
    """Check that a merge may write the folder ``path``, an ``output_path``.

    Raises:
        OutputError: It is a file or a link; it is, contains or lies inside something ``protected``, the
            current folder or a run's folder; or it holds files that no merge wrote, or that were changed
            since; or a merge, without ``overwrite``.
    """
    try:
        _check_kind(path)
        for place in (Protected(Path.cwd(), "the current folder"), *protected):
            _check_place(path, place)
        if path.is_dir():
            _check_content(path, overwrite=overwrite)
    except OSError as exception:
        raise OutputError(
            str(path), f"cannot be written ({exception.strerror or exception})", "Name another folder."
        ) from None


def _check_kind(path: Path) -> None:
    if path.is_symlink():
        raise OutputError(
            str(path), f"is a link to {path.readlink()}", "Name a folder that does not exist yet."
        )
    if path.exists() and not path.is_dir():
        raise OutputError(str(path), "is a file", "Name a folder that does not exist yet.")
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir():
        raise OutputError(str(path), f"cannot be written ({above} is a file)", "Name another folder.")


def _check_place(path: Path, place: Protected) -> None:
    own = _folders(place.path)
    hint = "Nothing was written. Name another folder."
    for folder in own:
        if _is_one_of(path, folder):
            raise OutputError(str(path), f"is {place.what}", hint)
        if any(_is_one_of(path, above) for above in folder.parents):
            raise OutputError(str(path), f"contains {place.what} ({place.path})", hint)
    if place.inside and any(_is_one_of(above, folder) for above in path.parents for folder in own):
        raise OutputError(str(path), f"lies inside {place.what} ({place.path})", hint)


def _folders(path: Path) -> list[Path]:
    """The real folder of ``path``, and those that links in it point into, as in a hub's cache."""
    real = path.resolve()
    if not real.is_dir():
        return [real.parent]
    linked = {file.resolve().parent for file in _entries(real) if file.is_symlink()}
    return [real, *sorted(linked - {real})]


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:  # it may not be listed; nor could it be replaced
        return


def _is_one_of(one: Path, other: Path) -> bool:
    """Whether both are one folder, in whatever spelling: also by another case, or mounted twice."""
    if one == other:
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def _check_content(path: Path, *, overwrite: bool) -> None:
    content = read_folder(path)
    if content.empty:
        return
    if any((path / name).exists() for name in _RUN_FILES):
        raise OutputError(
            str(path), "is the folder of a search's run", "Name another folder, such as one inside it."
        )
    refusal = _refusal(content)
    if refusal is not None:
        raise OutputError(
            str(path),
            refusal,
            "Name another folder: --overwrite replaces only what a merge wrote.",
        )
    if not overwrite:
        raise OutputError(
            str(path), "the folder is not empty: it holds a merge", "Name another one, or give --overwrite."
        )


def _refusal(content: FolderContent) -> str | None:
    if content.foreign:
        return f"the folder is not empty; no merge wrote {_list(content.foreign)}"
    if content.changed:
        return f"the folder is not empty; changed since the merge that wrote it: {_list(content.changed)}"
    return None


def _list(names: tuple[str, ...]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
