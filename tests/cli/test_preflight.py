"""What `search` refuses before its first candidate, `check` refuses in the same words."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import Cli, changed
from safetensors.torch import load_file, save_file
from support import ROOT, ZOO
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.errors import UserError

Write = Callable[[dict[str, Any]], Path]
RAY_GPU = {"backend": "ray", "count": 1, "gpus_per_worker": 1}
TASKS = ROOT / "fitness" / "zoo"


def refusal(command: str, *arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edited_task(folder: Path, **fields: Any) -> Path:
    """A task folder whose zoo_add has more or other fields."""
    shutil.copytree(TASKS, folder)
    file = next(f for f in folder.glob("*.y*ml") if "task: zoo_add" in f.read_text())
    file.write_text(file.read_text() + "".join(f"\n{k}: {json.dumps(v)}" for k, v in fields.items()) + "\n")
    return folder


def without_files(name: str, folder: Path, pattern: str) -> str:
    shutil.copytree(ZOO / name, folder / name)
    for file in (folder / name).glob(pattern):
        file.unlink()
    return str(folder / name)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("search.population", 1, "search.population: must be at least 4"),
        ("workers", RAY_GPU, "workers.gpus_per_worker: each worker needs 1 GPUs"),
        ("workers.device", "cuda:7", "workers: device: 'cuda:7' is not available"),
        ("workers.device", "mps", "workers: device: 'mps' is not supported"),
        ("workers.device", "tpu9", "workers: device: there is no device 'tpu9'"),
        ("fitness.tasks", [{"task": "zoo_add", "metric": "acc"}], "the task has no metric 'acc'"),
        ("fitness.tasks", [{"task": "zoo_add", "filter": "strict"}], "the task has no filter 'strict'"),
        ("fitness.max_gen_toks", 100000, "do not fit into the model's context"),
        ("storage", "sqlite:///afile/study.db", "afile is not a folder"),
        ("storage", "mysql://host/db", "no storage of the kind 'mysql'"),
        ("output", {"dir": "afile/run"}, "afile is not a folder"),
    ],
)
def test_check_refuses_what_search_refuses(
    here: Path, write: Write, place: str, value: Any, expected: str
) -> None:
    (here / "afile").write_text("mine")
    document = changed(place, value)
    if place == "fitness.max_gen_toks":
        tasks = edited_task(here / "tasks", generation_kwargs={"max_gen_toks": value, "until": ["\n"]})
        document = changed("fitness.include_path", str(tasks))
    file = write(document)
    before = sorted(here.rglob("*"))
    told = {command: refusal(command, file) for command in ("check", "search")}
    assert all(expected in text for text in told.values()), told
    assert sorted(here.rglob("*")) == before


def test_models_without_any_tokenizer_are_named(here: Path, write: Write) -> None:
    models = {n: without_files(n, here, "*token*") for n in ("base", "add", "reverse", "sort")}
    file = write(changed("models", models))
    for command in ("check", "search"):
        text = refusal(command, file)
        assert "no tokenizer files in base" in text
    assert not (here / "runs").exists()


def test_another_experiment_of_the_name_is_refused_by_check_too(here: Path, write: Write, cli: Cli) -> None:
    done = cli("search", write(changed("search.trials", 4)))
    assert done.returncode == 0, done.stderr
    file = write(changed("search.seed", 4))
    told = {command: refusal(command, file) for command in ("check", "search")}
    assert all("search.seed: 3 -> 4" in text for text in told.values()), told


def test_check_makes_no_file(here: Path, write: Write, cli: Cli) -> None:
    file = write(changed("name", "small"))
    done = cli("check", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("Everything fits.")
    assert sorted(p.name for p in here.iterdir()) == [file.name]


def test_prompts_beyond_the_context_are_counted(here: Path, write: Write, cli: Cli) -> None:
    long = "{{" + repr("a " * 400) + "}}"
    tasks = edited_task(here / "tasks", description=long)
    done = cli("check", write(changed("fitness.include_path", str(tasks))))
    assert done.returncode == 0, done.stderr
    assert "60 prompts are longer than the model's context" in " ".join((done.stdout + done.stderr).split())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"thesis.tex": "years"}, "it holds thesis.tex"),
        ({"config.json": "{}", "model.safetensors": "weights"}, "it holds config.json, model.safetensors"),
        ({"run.json": '{"lr": 0.1}'}, "no search wrote its run.json"),
        ({"run.json": "not JSON"}, "no search wrote its run.json"),
        ({"study.db": "", "data.csv": "1"}, "it holds data.csv"),
    ],
)
def test_a_run_goes_into_no_folder_with_files_of_the_users(
    here: Path, write: Write, files: dict[str, str], expected: str
) -> None:
    (here / "mine").mkdir()
    for name, text in files.items():
        (here / "mine" / name).write_text(text)
    file = write(changed("output", {"dir": "mine"}))
    before = contents(here)
    told = {command: refusal(command, file) for command in ("check", "search")}
    assert all(expected in text for text in told.values()), told
    assert contents(here) == before


@pytest.mark.parametrize(
    "files",
    [
        {},
        {".gitkeep": ""},
        {"study.db": "", "study.db-wal": ""},  # killed before run.json
        {"run.json": ""},
        {"run.json": '{"study": "small", "storage": null, "experiment": "e.yml"}', "best.yml": "# mine"},
    ],
)
def test_a_run_goes_into_an_empty_folder_and_its_own(here: Path, write: Write, files: dict[str, str]) -> None:
    (here / "mine").mkdir()
    for name, text in files.items():
        (here / "mine" / name).write_text(text)
    result = CliRunner().invoke(app, ["check", str(write(changed("output", {"dir": "mine"})))])
    assert result.exit_code == 0, result.output


def test_a_storage_of_something_else_is_refused_before_a_run_folder_is_made(here: Path, write: Write) -> None:
    with closing(sqlite3.connect(here / "mine.db")) as connection:
        connection.execute("CREATE TABLE patients (id INTEGER)")
    (here / "thesis.txt").write_text("years of work")
    for name, why in (("mine.db", "it holds patients"), ("thesis.txt", "not an SQLite database")):
        file = write(changed("storage", f"sqlite:///{name}"))
        before = contents(here)
        told = {command: refusal(command, file) for command in ("check", "search")}
        assert all(why in text for text in told.values()), told
        assert contents(here) == before
    assert not (here / "runs").exists()


def test_integer_tensors_that_differ_between_models_are_all_named(here: Path, write: Write) -> None:
    document = changed("models.base", "zoo/base")
    for seed, name in enumerate(document["models"]):
        folder = Path(without_files(name, here / "zoo", "none"))
        document["models"][name] = str(folder)
        (file,) = folder.glob("*.safetensors")
        tensors = load_file(file)
        tensors["model.order"] = torch.arange(7) + (name == "sort")
        tensors["model.known"] = torch.tensor([True, seed < 2])
        save_file(tensors, file, {"format": "pt"})
    told = {command: refusal(command, write(document)) for command in ("check", "search")}
    for text in told.values():
        assert "model.order holds int64, not weights, and differs in sort (model.order)" in text
        assert "model.known holds bool, not weights, and differs in reverse (model.known), sort" in text
    assert told["check"] == told["search"]
