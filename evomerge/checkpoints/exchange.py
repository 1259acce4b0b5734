"""The hidden folder that a model is written into, and how it is renamed; a kill does not lose a model."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import re
import shutil
from pathlib import Path

from evomerge.checkpoints.manifest import MANIFEST, RECIPE_FILE, read_folder
from evomerge.errors import OutputError

__all__ = ["Workplace", "exchange", "recover"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def _replaced_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _note(path: Path) -> Path:
    """The file beside a hidden folder that names it, and that the writing process has locked."""
    return path.with_name(f".{path.name}.evomerge")


class Workplace:
    """A new hidden folder beside ``path``, used by one process at a time.

    What a killed process left is removed if its note names it. Other folders are kept.

    Raises:
        OutputError: Another process writes this model.
        OSError: The folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._note = _note(path)
        self._made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = _lock(self._note, path)
        try:
            self._remove_left()
            names = itertools.chain(("partial",), (f"partial-{i}" for i in itertools.count(2)))
            folders = (path.with_name(f".{path.name}.{name}") for name in names)
            self.folder = next(f for f in folders if not (f.exists() or f.is_symlink()))
            os.pwrite(self._descriptor, os.fsencode(self.folder.name), 0)
            self.folder.mkdir()
        except BaseException:
            self._unlock()
            raise

    def remove(self) -> None:
        """Removes the folder, if it is still there, and the note; may be called twice."""
        if self._descriptor is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._unlock()

    def _remove_left(self) -> None:
        if self._descriptor is None:
            return
        left = os.fsdecode(os.pread(self._descriptor, 4096, 0))
        if re.fullmatch(re.escape(f".{self._path.name}.partial") + r"(-\d+)?", left):
            folder = self._path.with_name(left)
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        os.ftruncate(self._descriptor, 0)

    def _unlock(self) -> None:
        if self._descriptor is None:
            return
        self._note.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        with contextlib.suppress(OSError):  # a parent folder that was created is kept if it is not empty
            for folder in self._made:
                folder.rmdir()


def _lock(note: Path, path: Path) -> int:
    while True:
        descriptor = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(str(path), "another process is writing this model", "Wait for it.") from None
        except OSError:  # a file system without locks
            return descriptor
        with contextlib.suppress(FileNotFoundError):  # else its last holder has just removed it
            if os.path.samestat(os.fstat(descriptor), note.stat()):
                return descriptor
        os.close(descriptor)


def recover(path: Path) -> None:
    """Gives an earlier merge its name again, where a process was killed while it replaced it.

    Raises:
        OSError: It cannot be renamed.
    """
    old = _replaced_path(path)
    if _note(path).exists() and old.is_dir() and not old.is_symlink():
        if not path.exists():
            old.rename(path)
        else:
            _remove_merge(old)


def exchange(new: Path, path: Path) -> None:
    """Gives the folder ``new`` the name ``path``; what a merge wrote in the one that had it is removed.

    Raises:
        OSError: The file system refuses; then ``path`` is as it was.
    """
    if not path.exists() or not any(path.iterdir()):
        new.rename(path)  # also over an empty folder
        return
    if _swap(new, path):
        _remove_merge(new)
        return
    old = _replaced_path(path)
    if old.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(old))
    try:
        path.rename(old)
        new.rename(path)
    finally:  # also where Ctrl-C came between the two; after a kill, the next merge does the same
        if old.exists() and not path.exists():
            old.rename(path)
    _remove_merge(old)


def _swap(one: Path, other: Path) -> bool:
    """Exchanges two names in one step (Linux: renameat2); False where the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _remove_merge(folder: Path) -> None:
    """Removes the files that a merge wrote, and the folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        # Last the manifest: after a kill in between, the folder is still known as a merge.
        for name in sorted(read_folder(folder).written, key=lambda n: (n == MANIFEST, n == RECIPE_FILE)):
            (folder / name).unlink()
        folder.rmdir()
