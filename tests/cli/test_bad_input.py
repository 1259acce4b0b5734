"""Bad input: one message that names file, field and reason, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import changed
from support import ZOO, MakeModel
from torch import Tensor
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.errors import UserError
from evomerge.study.storage import retry

Write = Callable[[dict[str, Any]], Path]


def message(*arguments: str | Path) -> str:
    """The error of a command, run in this process; it must be one of the user's."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("search.sigmaa", 0.3, "search.sigmaa: there is no such field. Did you mean 'sigma'?"),
        ("searhc", {}, "searhc: there is no such field. Did you mean 'search'?"),
        ("search.sampler", "cma", "there is no sampler 'cma'"),
        ("search.trials", 0, "search.trials"),
        ("models.add", "/nowhere/zoo/ad", "models.add: /nowhere/zoo/ad: there is no such model folder"),
        ("models.add", str(ZOO / "ad"), "Did you mean 'add'"),
        ("recipe.merge_method", "task_arithmetics", "Did you mean 'task_arithmetic'"),
        ("recipe.models.0.parameters", {"wieght": {"float": [0, 1]}}, "Did you mean 'weight'"),
        (
            "recipe.models.0.parameters.weight",
            {"float": [2, 1]},
            "the lower bound 2 is not below the upper bound 1",
        ),
        ("recipe.base_model", {"float": [0, 1]}, "recipe.base_model: a hole may not stand here"),
        ("recipe.models.0.parameters.weight", {"float": [0, 1], "pionts": 2}, "Did you mean 'points'"),
        ("recipe.models.0.parameters.weight", 1.0, "has no hole, so there is nothing to search"),
        ("recipe", None, "give exactly one of 'recipe'"),
        ("fitness.tasks", ["zoo_ad"], "Did you mean 'zoo_add'"),
        ("fitness.tasks", [{"task": "zoo_add", "metric": "acc"}], "exact_match"),
        ("fitness.include_path", "nowhere", "there is no folder 'nowhere'"),
        ("fitness.splits", {"search": 700, "validation": 60, "test": 20}, "validation"),
        ("fitness.splits", {"search": 0.0001, "validation": 0.5, "test": 0.4}, "zoo_add"),
        ("name", "a b", "name: 'a b' is not a plain name"),
        ("models", {"a/b": "x"}, "models: 'a/b' is not a plain name"),
        ("models.add", "zoo/models/add", "models.add: zoo/models/add: there is no such model folder"),
        ("workers.count", 2, "the backend inline has one worker"),
        ("workers.device", "cuda:9", "'cuda:9' is not available"),
    ],
)
def test_a_wrong_experiment_is_one_clear_message(
    place: str, value: Any, expected: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(changed(place, value))
    assert expected in message("check", path)


def test_the_message_names_the_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(changed("search.sigmaa", 0.3))
    assert message("check", path).startswith(f"{path}: search.sigmaa")


def test_a_process_prints_one_message_and_exits_with_2(
    cli: Callable[..., subprocess.CompletedProcess[str]], write: Write
) -> None:
    done = cli("search", write(changed("search.sigmaa", 0.3)))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_models_of_another_shape_are_named(
    write: Write, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(changed("models.add", str(make_model("odd", 1))))
    assert "differ in shape" in message("check", path)


def test_a_corrupt_file_is_named(
    write: Write, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_model("broken", 1)
    (folder / "model.safetensors").write_bytes(b"\x00" * 50)
    text = message("check", write(changed("models.add", str(folder))))
    assert str(folder / "model.safetensors") in text
    assert "cannot be read as safetensors" in text


@pytest.mark.parametrize("keep", [0, 7, 200, 5000])
def test_a_truncated_file_is_named(
    keep: int, write: Write, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_model("cut", 1)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert str(file) in message("check", write(changed("models.add", str(folder))))


def test_an_unreachable_storage_is_one_message_without_its_password(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.1)
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/evomerge"
    text = message("search", write(changed("search.seed", 3)), "--storage", url)
    assert "127.0.0.1" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1, 2\n", "a: 1\na: 2\n", "x: &x [*x]\n", "\x00"])
def test_a_file_that_is_no_experiment(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yml"
    path.write_text(text)
    assert str(path) in message("check", path)


def test_a_billion_laughs_are_refused_quickly(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "bomb.yml"
    path.write_text("\n".join(lines))
    assert "expands to more than" in message("check", path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("status", "nowhere"), "is not a run's folder"),
        (("export", "nowhere", "-o", "x.yml"), "is not a run's folder"),
        (("merge", "nowhere.yml", "out"), "nowhere.yml: there is no such file"),
        (("methods", "tise"), "Did you mean 'ties'"),
        (("init", "tie"), "Did you mean 'ties"),
        (("eval", str(ZOO / "add"), "--fitness", "nowhere.yml"), "nowhere.yml: there is no such file"),
        (("eval", str(ZOO / "add"), "--fitness", "x.yml", "--dtype", "float31"), "Did you mean 'float32'"),
        (("eval", str(ZOO / "add"), "--fitness", "x.yml", "--split", "tets"), "Did you mean 'test'"),
    ],
)
def test_a_command_that_names_nothing(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in message(*arguments)


def merge_file(tmp_path: Path, model: Path | str) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(f"merge_method: passthrough\nmodels:\n- model: {model}\n")
    return path


def test_a_full_folder_needs_overwrite(tmp_path: Path) -> None:
    recipe = merge_file(tmp_path, ZOO / "add")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("keep me")
    assert "--overwrite" in message("merge", recipe, tmp_path / "out")
    assert (tmp_path / "out" / "precious.txt").read_text() == "keep me"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    text = message("merge", merge_file(tmp_path, ZOO / "add"), tmp_path / "out")
    assert "not enough disk space" in text
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yml"]


def test_a_really_full_disk_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        text = message("merge", merge_file(tmp_path, ZOO / "add"), disk / "out")
        assert "not enough disk space" in text
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("size", ["lots", "5XB", "0", "-3GB", "9" * 400, "9" * 5000])
def test_a_shard_size_that_is_none(size: str, tmp_path: Path) -> None:
    text = message("merge", merge_file(tmp_path, ZOO / "add"), tmp_path / "out", "--shard-size", size)
    assert "--shard-size" in text


def test_another_experiment_under_the_same_name_is_refused_with_its_differences(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    first = runner.invoke(app, ["search", str(write(changed("search.trials", 1)))])
    assert first.exit_code == 0, first.output
    text = message("search", write(changed("search.sigma", 0.4)))
    assert "search.sigma: 0.25 -> 0.4" in text
    # A larger budget is no other experiment.
    more = runner.invoke(app, ["search", str(write(changed("search.trials", 2)))])
    assert more.exit_code == 0, more.output
    assert "Resuming" in more.output


def test_a_search_that_could_not_start_leaves_no_study_in_the_way(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Did you mean 'zoo_add'" in message("search", write(changed("fitness.tasks", ["zoo_ad"])))
    mended = CliRunner().invoke(app, ["search", str(write(changed("search.trials", 1)))])
    assert mended.exit_code == 0, mended.output


def test_a_storage_that_fails_does_not_hide_the_study_in_the_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.1)
    path = write(changed("search.trials", 1))
    assert CliRunner().invoke(app, ["search", str(path)]).exit_code == 0
    message("search", path, "--storage", "postgresql+psycopg://127.0.0.1:1/evomerge")
    assert CliRunner().invoke(app, ["status", "small"]).exit_code == 0


def test_nan_weights_fail_one_trial_and_the_search_goes_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    shutil.copytree(ZOO / "sort", tmp_path / "poisoned")
    tensors: dict[str, Tensor] = load_file(tmp_path / "poisoned" / "model.safetensors")
    tensors["model.norm.weight"][2] = float("inf")
    save_file(tensors, tmp_path / "poisoned" / "model.safetensors", metadata={"format": "pt"})
    document = changed("models.sort", str(tmp_path / "poisoned"))
    document["recipe"]["models"] = [
        {"model": "add", "parameters": {"weight": {"float": [0, 1.5]}}},
        {"model": "reverse", "parameters": {"weight": {"float": [0, 1.5]}}},
        {"model": {"choice": ["sort", "reverse"]}, "parameters": {"weight": 0.2}},
    ]
    result = CliRunner().invoke(app, ["search", str(write(document)), "--json"])
    assert result.exit_code == 0, result.output
    trials = json.loads(result.stdout)["trials"]
    failed = [t for t in trials if t["failure"]]
    assert failed
    assert all(t["failure"]["kind"] == "non_finite_weights" for t in failed)
    assert all("model.norm.weight" in t["failure"]["reason"] for t in failed)
    assert any(t["score"] is not None for t in trials if t["kind"] == "candidate")
