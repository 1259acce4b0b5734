"""A study in a journal file of Optuna's, one line for each write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from optuna.storages.journal import JournalFileBackend, JournalStorage

from evomerge.errors import StudyError
from evomerge.study.storage.locks import folder_lock, wait_for
from evomerge.study.storage.optuna_log import OptunaLog
from evomerge.study.storage_row import DAMAGE_ERRORS

__all__ = ["open_journal"]


def open_journal(path: Path) -> OptunaLog:
    """The journal at ``path``; it is made if it is missing.

    Raises:
        StudyError: A line of it is damaged.
    """

    def damage(exception: BaseException) -> StudyError | None:
        return _damage_error(path) if _is_optunas(exception) else None

    # The lock may be anything with `acquire` and `release`.
    file = JournalFileBackend(str(path), lock_obj=_FileLock(path))  # type: ignore[arg-type]
    try:
        storage = JournalStorage(file)
    except DAMAGE_ERRORS as exception:
        raise damage(exception) or exception from None
    return OptunaLog(storage, lambda _: folder_lock(path), damage)


class _FileLock:
    """The kernel's lock on the journal itself, which is released when its holder ends.

    Optuna's own locks are files, and have to be waited for (30 s) after their holder was killed. Under the
    lock, a last line without an end is what a killed writer, or a full disk, left; it would spoil the next.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock and remove an unfinished last line."""
        file = self._path.open("ab+", buffering=0)
        try:
            wait_for(file)
            _cut_unfinished_line(file)
        except BaseException:
            file.close()
            raise
        self._held = file
        return True

    def release(self) -> None:
        """Give the lock back; a line that was written in part is removed."""
        file, self._held = self._held, None
        if file is not None:
            try:
                _cut_unfinished_line(file)
            finally:
                file.close()


def _cut_unfinished_line(file: IO[bytes], block: int = 1 << 16) -> None:
    size = end = os.fstat(file.fileno()).st_size
    while end:
        begin = max(0, end - block)
        file.seek(begin)
        newline = (file.read(end - begin) or b"").rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end, block = begin, 1 << 20
    if end < size:
        file.truncate(end)


def _is_optunas(exception: BaseException) -> bool:
    """Whether it was raised while Optuna read or applied a line."""
    trace = exception.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("optuna.storages.journal"):
            return True
        trace = trace.tb_next
    return False


def _damage_error(path: Path) -> StudyError:
    return StudyError(
        str(path),
        "a line of this journal is damaged",
        "What stands before it can be read once it and the rest are removed.",
    )
