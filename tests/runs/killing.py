"""A search in a process of its own that is killed once so many trials are in its study."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from cli_support import environment


def search_until_killed(file: Path, study: Path, trials: int, timeout_s: float = 240.0) -> None:
    """Searches the experiment in ``file`` and kills it at ``trials`` trials in ``study``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "evomerge.cli.main", "search", str(file)],
        cwd=file.parent,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + timeout_s
    while process.poll() is None and _count(study) < trials and time.monotonic() < until:
        time.sleep(0.02)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert alive, errors.decode()  # else it ended before it was killed


def _count(study: Path) -> int:
    if not study.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True)) as connection:
        try:
            (count,) = connection.execute("SELECT count(*) FROM trials").fetchone()
        except sqlite3.OperationalError:  # no table yet
            return 0
    return int(count)
