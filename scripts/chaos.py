"""Kills a search again and again until it is done, and compares what it found with one that was left alone.

    python scripts/chaos.py [--runs 20] [--kills 4] [--workers 1 2] [--storage sqlite] [--lag 0]
                            [--seed 0] [--timeout 600] [--keep]

The experiment is a small one on the zoo (experiments/zoo), run by ``evomerge search`` in processes of its
own. Each run gets ``--kills`` kills at moments drawn from ``--seed``: of the driver, of one Ray worker, or of
the whole process group; after the death of the driver the same command goes on. A run is survived if it ends
with exit code 0 and its study (parameters, values, item scores, order, fingerprints) equals that of the
reference, which lies in SQLite. PostgreSQL is a server of its own, started for the runs and gone with them.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from postgres_support import PostgresServer

ROOT = Path(__file__).resolve().parent.parent
RAY_WORKER = "ray::_Host"
"""How the process of a Ray worker calls itself."""

AFTER_A_TRIAL = 0.7
"""Share of the moments that are chosen after a trial of this process; the others may fall into its start."""


@dataclass
class Chaos:
    """Runs ``command`` and kills it. ``recorded`` counts what the study holds; it may fail at first.

    ``targets`` are drawn from: driver, worker, group.
    """

    command: Callable[[], Sequence[str]]
    recorded: Callable[[], int]
    targets: Sequence[str]
    chance: random.Random
    log: Path
    start_s: float = 6.0
    """About how long the command takes until its first trial."""
    pause_s: float = 1.0
    """About how long a trial takes."""
    environment: dict[str, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    def run(self, kills: int, timeout_s: float = 600.0) -> int:
        """Kills ``kills`` times, if it lives that long, then lets it end; its exit code (-1: it does not)."""
        until = time.monotonic() + timeout_s
        process = self._start()
        try:
            while sum(self.kills.values()) < kills and self._wait_for_the_moment(process):
                target = self.chance.choice(list(self.targets))
                if target == "worker":
                    self._kill_a_worker(process)
                else:
                    self._kill(process, target)
                    process = self._start()
            return process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return -1
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )

    def _wait_for_the_moment(self, process: subprocess.Popen[bytes]) -> bool:
        if self.chance.random() < AFTER_A_TRIAL:
            before = self._count()
            while self._count() == before:
                if process.poll() is not None:
                    return False
                time.sleep(0.03)
            delay = self.chance.uniform(0.0, 3 * self.pause_s)
        else:
            delay = self.chance.uniform(0.0, self.start_s + 3 * self.pause_s)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _count(self) -> int:
        try:
            return self.recorded()
        except (OSError, sqlite3.Error):
            return 0

    def _kill_a_worker(self, process: subprocess.Popen[bytes]) -> None:
        workers = [pid for pid in descendants(process.pid) if RAY_WORKER in command_line(pid)]
        if workers:
            os.kill(self.chance.choice(workers), signal.SIGKILL)
            self.kills["worker"] += 1

    def _kill(self, process: subprocess.Popen[bytes], target: str) -> None:
        if target == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        self.kills[target] += 1


def descendants(pid: int) -> Iterator[int]:
    """Process ids of the children of ``pid``, of their children, and so on."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(
                int(stat.parent.name)
            )
        except OSError:  # it has just ended
            continue
    todo = [pid]
    while todo:
        children = sorted(parents.get(todo.pop(), []))
        yield from children
        todo += children


def command_line(pid: int) -> str:
    """The command line of a process, empty if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class Storages:
    """Where the studies of the runs lie: in the folder of each, or in a database of a server."""

    def __init__(self, kind: str, server: PostgresServer | None) -> None:
        self._kind = kind
        self._server = server

    def url(self, out: Path) -> str:
        """URL of an empty storage for the run in the folder ``out``."""
        if self._server is not None:
            return self._server.new_database()
        return f"{self._kind}:///{out.with_suffix('.db' if self._kind == 'sqlite' else '.log-study')}"

    def count(self, url: str) -> int:
        """Trials in the study at ``url``.

        Raises:
            OSError: there is none yet, or it cannot be read in this moment.
        """
        if self._server is not None:
            return count_rows(url)
        path = Path(url.partition(":///")[2])
        if self._kind == "journal":
            return path.read_bytes().count(b'{"op_code":4,')
        return count_trials(path)


def count_rows(url: str) -> int:
    """Trials in a PostgreSQL database."""
    import psycopg

    try:
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            row = connection.execute("SELECT count(*) FROM trials").fetchone()
            return int(row[0]) if row else 0
    except psycopg.Error as error:
        raise OSError(str(error)) from None


@contextmanager
def storages(kind: str) -> Iterator[Storages]:
    """Storages of one kind, for as long as the runs take."""
    if kind != "postgres":
        yield Storages(kind, None)
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from postgres_support import running_server

    with running_server() as server:
        yield Storages(kind, server)


def count_trials(database: Path) -> int:
    """Trials in an SQLite study."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        count: int = connection.execute("SELECT count(*) FROM trials").fetchone()[0]
        return count
    finally:
        connection.close()


def experiment(lag: int) -> dict[str, object]:
    models = {name: str(ROOT / "experiments" / "zoo" / name) for name in ("base", "add", "reverse", "sort")}
    weight = {"float": [0, 1.5], "init": 0.5}
    return {
        "name": "chaos",
        "models": models,
        "recipe": {
            # with a random mask: its bits must not depend on who computes it, or when
            "merge_method": {"choice": ["task_arithmetic", "dare_ties"]},
            "base_model": "base",
            "models": [{"model": "*", "parameters": {"weight": weight, "density": {"float": [0.2, 1]}}}],
            "dtype": "bfloat16",
        },
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo"),
            "tasks": ["zoo_add", "zoo_sort"],
            "splits": {"search": 20, "validation": 20, "test": 20},
            "batch_size": 32,
        },
        "search": {"trials": 24, "population": 6, "seed": 3, "top_k": 3, "lag": lag},
        # a candidate that several kills hit must not count as one that kills its workers
        "workers": {"dtype": "float32", "max_attempts": 100},
    }


ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def search_command(file: Path, out: Path, workers: int, url: str) -> list[str]:
    words = [sys.executable, "-m", "evomerge.cli.main", "search", str(file), "--out", str(out)]
    return [*words, "--workers", str(workers), "--storage", url]


def digest(url: str) -> str:
    from evomerge.study.study import Study

    with Study.open(url, "chaos") as study:
        return study.digest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=20, help="runs, taken in turn from the numbers of workers"
    )
    parser.add_argument("--kills", type=int, default=4, help="kills in each run")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--lag", type=int, default=0, help="search.lag of the experiment")
    parser.add_argument("--storage", choices=["sqlite", "journal", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600, help="seconds until a run counts as hanging")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and studies")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with storages(arguments.storage) as opened:
        failed = run_all(arguments, folder, opened)
    if arguments.keep or failed:
        print(f"Logs and studies: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def run_all(arguments: argparse.Namespace, folder: Path, opened: Storages) -> int:
    """Makes the reference and all runs, and reports; the number of runs that failed."""
    file = folder / "chaos.yml"
    file.write_text(yaml.safe_dump(experiment(arguments.lag), sort_keys=False))
    print(f"Reference run in {folder}; kills on {arguments.storage}", flush=True)
    reference = f"sqlite:///{folder}/reference.db"
    with (folder / "reference.log").open("wb") as log:
        subprocess.run(
            search_command(file, folder / "reference", 1, reference),
            check=True,
            stdout=log,
            stderr=log,
            env={**os.environ, **ENVIRONMENT},
        )
    expected = digest(reference)
    made, survived, failed = Counter[str](), Counter[str](), 0
    for number in range(arguments.runs):
        workers = arguments.workers[number % len(arguments.workers)]
        out = folder / f"run{number}"
        url = opened.url(out)
        began = time.monotonic()
        chaos = Chaos(
            command=lambda out=out, workers=workers, url=url: search_command(file, out, workers, url),  # type: ignore[misc]
            recorded=lambda url=url: opened.count(url),  # type: ignore[misc]
            targets=("driver", "group") if workers == 1 else ("driver", "worker", "group"),
            chance=random.Random(f"{arguments.seed}/{number}"),
            log=folder / f"run{number}.log",
            start_s=6.0 if workers == 1 else 15.0,
            pause_s=0.4,
            environment=ENVIRONMENT,
        )
        code = chaos.run(arguments.kills, arguments.timeout)
        same = code == 0 and digest(url) == expected
        failed += not same
        made += chaos.kills
        survived += chaos.kills if same else Counter()
        print(
            f"run {number}: {workers} worker(s), {chaos.starts} starts, {dict(chaos.kills)} killed, "
            f"exit code {code}, {'equal' if same else 'NOT EQUAL'}, {time.monotonic() - began:.0f} s",
            flush=True,
        )
    print(f"Kills survived: {survived.total()} of {made.total()} ({dict(survived)} of {dict(made)})")
    print(f"Runs equal to the reference: {arguments.runs - failed} of {arguments.runs}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
