"""What export, init and merge write, and what they leave alone; on one finished search."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from cli_support import changed
from typer.testing import CliRunner, Result

from evomerge.checkpoints.manifest import read_folder
from evomerge.cli.main import app
from evomerge.errors import OutputError

STORAGE = "sqlite:///elsewhere.db"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a finished search whose storage is elsewhere, and what the search printed."""
    folder, before = tmp_path_factory.mktemp("finished"), Path.cwd()
    (folder / "experiment.yml").write_text(yaml.safe_dump(changed("search.trials", 4)))
    os.chdir(folder)
    try:
        done = run("search", "experiment.yml", "--storage", STORAGE, "--out", "my run")
    finally:
        os.chdir(before)
    return folder, done.stdout


@pytest.fixture
def here(finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the current one."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def names(folder: Path) -> list[str]:
    """Of its files, without those that SQLite has beside a database that is open."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(("-shm", "-wal")))


def export(output: str) -> Result:
    return CliRunner().invoke(app, ["export", "my run", "--storage", STORAGE, "-o", output])


def test_export_to_standard_output_prints_the_recipe_and_nothing_else(here: Path) -> None:
    before = names(here)
    done = export("-")
    assert done.exit_code == 0, done.output
    assert names(here) == before
    assert export("best.yml").exit_code == 0
    assert done.stdout == (here / "best.yml").read_text()
    assert yaml.safe_load(done.stdout)["merge_method"] == "task_arithmetic"


def test_init_to_standard_output_prints_the_space_and_nothing_else(here: Path) -> None:
    before = names(here)
    text = run("init", "ties", "-o", "-").stdout
    assert names(here) == before
    run("init", "ties")
    assert text == (here / "ties.yml").read_text()


def test_export_writes_over_its_own_recipe_and_over_nothing_else(here: Path) -> None:
    (here / "mine.yml").write_text("merge_method: linear  # tuned by hand\n")
    (here / "link.yml").symlink_to("mine.yml")
    for name, why in (
        ("mine.yml", "no export wrote it"),
        ("link.yml", "is a link"),
        ("my run", "not a file"),
    ):
        refused = export(name)
        assert isinstance(refused.exception, OutputError)
        assert why in str(refused.exception)
    assert (here / "mine.yml").read_text() == "merge_method: linear  # tuned by hand\n"
    assert (here / "link.yml").is_symlink()
    for _ in range(2):
        assert export("best.yml").exit_code == 0


def test_the_next_commands_can_be_pasted(finished: tuple[Path, str], here: Path) -> None:
    printed = finished[1].partition("Next:\n")[2].splitlines()
    commands = [shlex.split(line) for line in printed if line.strip()]
    assert [words[1] for words in commands] == ["export", "merge"]
    for words in commands:
        run(*words[1:])  # the first word is how the program was called
    assert (here / "OUT_DIR" / "model.safetensors").is_file()


def test_a_script_that_searches_exports_and_merges_may_run_again(here: Path) -> None:
    for _ in range(3):
        run("search", "experiment.yml", "--storage", STORAGE, "--out", "my run")
        run("export", "my run", "--storage", STORAGE, "-o", "my run/best.yml")
        run("merge", "my run/best.yml", "my run/merged", "--overwrite")
        content = read_folder(here / "my run" / "merged")
        assert content.written
        assert not content.foreign + content.changed
    (here / "my run" / "merged" / "eval.json").write_text("mine")
    again = CliRunner().invoke(app, ["merge", "my run/best.yml", "my run/merged", "--overwrite"])
    assert isinstance(again.exception, OutputError)
    assert "eval.json" in str(again.exception)
