"""Disks that are full or may not be written to: a clear message, exit code 2, no half a file, no trial lost.

Real small file systems where they can be mounted (as root), otherwise skipped.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import EXPERIMENT, changed, environment
from support import ZOO
from typer.testing import CliRunner, Result

from evomerge.cli.main import app
from evomerge.errors import OutputError, UserError
from evomerge.recipe import dump_recipe, load_recipe
from evomerge.study.study import Study

Write = Callable[[dict[str, Any]], Path]
ROOM = 2**20


class Disk:
    """A file system of its own below the test's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def mount(self, *options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(self.path)]
        if subprocess.run(words, check=False, capture_output=True).returncode != 0:
            pytest.skip("a small file system cannot be mounted here")

    def close(self) -> None:
        if self.path.is_mount():
            subprocess.run(["umount", str(self.path)], check=True)

    def names(self) -> list[str]:
        return sorted(p.name for p in self.path.iterdir())


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.chdir(tmp_path)
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(f"merge_method: passthrough\nmodels:\n- model: {ZOO / 'add'}\n")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refusal(*arguments: object) -> str:
    """The message of a command, run in this process; it must be one of the user's."""
    result = run(*arguments)
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


WEIGHTS = (ZOO / "add" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("size", [WEIGHTS // 2, WEIGHTS + 3 * 4096], ids=["weights", "side files"])
def test_a_merge_onto_a_full_disk_leaves_nothing(size: int, disk: Disk, recipe: Path) -> None:
    disk.mount(f"size={size}")
    assert "disk/out: not enough disk space for the 0 MiB" in refusal("merge", recipe, "disk/out")
    assert disk.names() == []


def test_a_merge_onto_a_full_disk_keeps_the_model_that_it_was_to_replace(disk: Disk, recipe: Path) -> None:
    disk.mount(f"size={WEIGHTS + 20 * 4096}")
    assert run("merge", recipe, "disk/out").exit_code == 0
    before = sorted((p.name, p.read_bytes()) for p in (disk.path / "out").iterdir())
    assert "not enough disk space" in refusal("merge", recipe, "disk/out", "--overwrite")
    assert sorted((p.name, p.read_bytes()) for p in (disk.path / "out").iterdir()) == before
    assert disk.names() == ["out"]


@pytest.mark.slow
def test_a_study_on_a_full_disk_keeps_its_trials_and_goes_on_when_there_is_room(
    disk: Disk, write: Write, tmp_path: Path
) -> None:
    path = write(EXPERIMENT)
    disk.mount("size=260k")
    text = refusal("search", path, "--out", "disk/run")
    assert "disk is full" in text or "No space left" in text
    subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(disk.path)], check=True)
    again = run("search", path, "--out", "disk/run")
    assert again.exit_code == 0, again.output
    assert run("search", path, "--out", "elsewhere").exit_code == 0
    with (
        Study.open(f"sqlite:///{disk.path}/run/study.db", "small") as study,
        Study.open(f"sqlite:///{tmp_path}/elsewhere/study.db", "small") as reference,
    ):
        assert study.digest() == reference.digest()


@pytest.mark.slow
def test_an_export_and_a_copied_space_are_whole_or_not_there(
    disk: Disk, write: Write, tmp_path: Path
) -> None:
    assert run("search", write(changed("search.trials", 4))).exit_code == 0
    disk.mount(f"size={ROOM}")
    (disk.path / "best.yml").write_text("# evomerge old")
    (disk.path / "filler").write_bytes(bytes(ROOM - 4096))
    assert "best.yml: cannot be written (No space left" in refusal("export", "small", "-o", "disk/best.yml")
    assert (disk.path / "best.yml").read_text() == "# evomerge old"
    assert "ties.yml: cannot be written (No space left" in refusal("init", "ties", "-o", "disk/ties.yml")
    assert disk.names() == ["best.yml", "filler"]


@pytest.mark.slow
def test_nothing_is_written_where_nothing_may_be(disk: Disk, write: Write, recipe: Path) -> None:
    assert run("search", write(changed("search.trials", 4))).exit_code == 0
    disk.mount("ro")
    for command, named in (
        (("merge", recipe, "disk/out"), "disk/out"),
        (("export", "small", "-o", "disk/best.yml"), "disk/best.yml"),
        (("init", "ties", "-o", "disk/ties.yml"), "disk/ties.yml"),
        (("search", "experiment.yml", "--out", "disk/run"), "disk/run"),
        (("search", "experiment.yml", "--storage", "sqlite:///disk/study.db"), "study.db"),
        (("search", "experiment.yml", "--storage", "journal:///disk/study.log"), "study.log"),
    ):
        text = refusal(*command)
        assert named in text
        assert "Read-only" in text or "unable to open database file" in text


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk looks like where nothing can be mounted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_that_may_not_grow_leave_nothing_either(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.yml").write_text("old")
    loaded = load_recipe(recipe)
    with files_of_at_most(30):
        assert "out: not enough disk space" in refusal("merge", recipe, "out")
        assert "ties.yml: cannot be written (File too large)" in refusal("init", "ties")
        with pytest.raises(OutputError, match=r"old.yml: cannot be written \(File too large\)"):
            dump_recipe(loaded, Path("old.yml"))
    assert (tmp_path / "old.yml").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.yml", "recipe.yml"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_standard_output_that_is_full_is_no_bug() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "evomerge.cli.main", "methods", "--json"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "Error: cannot be written (No space left on device)\n"
