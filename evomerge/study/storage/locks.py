"""Locks of the kernel: released when their holder ends, however it ends. POSIX only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["LOCK_SECONDS", "folder_lock", "wait_for"]

LOCK_SECONDS = 60
"""How long is waited for another process."""


def wait_for(file: IO[bytes] | int) -> None:
    """Take the kernel's lock on ``file``, waiting for at most ``LOCK_SECONDS``.

    Raises:
        BlockingIOError: Another process held it all the time.
    """
    import fcntl

    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.002)
        else:
            return


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """The kernel's lock on the folder of ``path``, waited for: a lock that leaves no file behind.

    Not on the file itself: SQLite's own locks on it would be lost when this process closes it.
    """
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        wait_for(folder)
        yield
    finally:
        os.close(folder)
