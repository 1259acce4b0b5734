"""Ctrl-C and SIGTERM: exit code 130, the command that goes on, and nothing half-written."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import EXPERIMENT, Cli, changed, environment
from support import ZOO
from typer.testing import CliRunner, Result

from evomerge.checkpoints.writer import CheckpointWriter
from evomerge.cli.main import app
from evomerge.study.study import Study

Write = Callable[[dict[str, Any]], Path]
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def sent(number: int) -> None:
    os.kill(os.getpid(), number)


def result_of(*arguments: object) -> Result:
    """What a command did; the handlers of before are back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    return result


# --- merge -------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(f"merge_method: passthrough\nmodels:\n- model: {ZOO / 'add'}\n")
    return path


@BOTH
def test_a_merge_that_is_stopped_leaves_nothing_and_says_how_to_start_again(
    number: int, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointWriter, "write_text", lambda *_: sent(number))
    result = result_of("merge", recipe, tmp_path / "out")
    assert result.exit_code == 130
    assert "no half-written model is left. Run it again with:\n  evomerge" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yml"]


def test_a_merge_that_is_stopped_while_it_replaces_a_folder_leaves_one_of_the_two(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert result_of("merge", recipe, out).exit_code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    rename = Path.rename

    def stopped_before(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            sent(signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr("evomerge.checkpoints.exchange._swap", lambda *_: False)
    monkeypatch.setattr(Path, "rename", stopped_before)
    assert result_of("merge", recipe, out, "--overwrite").exit_code == 130
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "recipe.yml"]


STUBBORN = """
import signal, sys, time
from evomerge.checkpoints.writer import CheckpointWriter
from evomerge.cli.main import main

def clean_up_for_ever(self):
    print("cleaning up", flush=True)
    time.sleep(3600)

def stop(*_):
    signal.raise_signal(signal.SIGINT)

CheckpointWriter.write_text, CheckpointWriter.abandon = stop, clean_up_for_ever
main()
"""


def test_a_second_control_c_leaves_a_merge_at_once_and_the_next_one_cleans_up(
    recipe: Path, tmp_path: Path, cli: Cli
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN, "merge", str(recipe), "out"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "cleaning up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert (tmp_path / ".out.partial").is_dir()
    assert cli("merge", recipe, "out").returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "recipe.yml"]


# --- search ------------------------------------------------------------------------------------------------


@BOTH
def test_a_search_that_is_stopped_before_it_began_ends_at_once(
    number: int, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(EXPERIMENT)

    def stopped(_: object) -> None:
        sent(number)

    monkeypatch.setattr("evomerge.runs.run.preflight", stopped)
    result = result_of("search", path)
    assert result.exit_code == 130
    assert "every finished trial is kept. Continue with:\n  evomerge" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@contextmanager
def searching(folder: Path, path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A search in a session of its own, of which a generation is done."""
    words = [sys.executable, "-u", "-m", "evomerge.cli.main", "search", str(path), *options]
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "generation 0" in line:
                break
        try:
            yield process
        finally:
            process.kill()


def in_session(leader: int) -> list[str]:
    """Command lines of the living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append((stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_control_c_in_a_terminal_ends_a_search_on_ray_in_order_and_the_printed_command_goes_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = {**EXPERIMENT, "search": {**EXPERIMENT["search"], "trials": 12}}
    path = write({**document, "workers": {"backend": "ray", "count": 2, "dtype": "float32"}})
    with searching(tmp_path, path) as process:
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130, out
        assert in_session(process.pid) == []
    assert "finishing the running candidate" in out
    assert "Traceback" not in out
    again = re.search(r"Continue with:\n  evomerge (.*)\n", out)
    assert again is not None
    write(document)
    assert result_of(*shlex.split(again.group(1)), "--workers", "1").exit_code == 0
    assert result_of("search", path, "--out", "whole").exit_code == 0
    studies = [Study.open(f"sqlite:///{tmp_path / out}/study.db", "small") for out in ("runs/small", "whole")]
    digests = [study.digest() for study in studies]
    for study in studies:
        study.close()
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_second_sigterm_leaves_a_search_at_once_and_keeps_its_trials(write: Write, tmp_path: Path) -> None:
    path = write(changed("search.trials", 400))
    with searching(tmp_path, path) as process:
        process.terminate()
        process.terminate()
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 130, out
    assert "Continue with:" in out
    with Study.open(f"sqlite:///{tmp_path}/runs/small/study.db", "small") as study:
        assert 4 <= len(study.candidates()) < 400
