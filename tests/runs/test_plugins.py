"""Packages that extend evomerge: installed for real, used by the commands and on Ray workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_support import changed, environment
from safetensors.torch import load_file
from support import ROOT, ZOO

Command = Callable[..., subprocess.CompletedProcess[str]]
RECIPE: dict[str, Any] = {
    "merge_method": "halfway",
    "base_model": "base",
    "models": [{"model": "add"}],
    "parameters": {"share": {"float": [0, 1], "init": 0.5}},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package, installed by pip."""
    source = tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(ROOT / "tests" / "example_plugin", source)
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--target", str(site), str(source)], check=True)
    return site


@pytest.fixture
def command(site: Path, tmp_path: Path) -> Command:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "evomerge.cli.main", *map(str, arguments)],
            cwd=tmp_path,
            env={**environment(), "PYTHONPATH": f"{site}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_method_of_a_package_is_listed_and_merges(command: Command, tmp_path: Path) -> None:
    assert "Between base and model" in command("methods", "halfway").stdout
    document = {
        **RECIPE,
        "base_model": str(ZOO / "base"),
        "models": [{"model": str(ZOO / "add")}],
        "parameters": {"share": 0.25},
    }
    (tmp_path / "r.yml").write_text(yaml.safe_dump(document))
    done = command("merge", "r.yml", "out")
    assert done.returncode == 0, done.stderr
    base, add, out = (
        load_file(folder / "model.safetensors") for folder in (ZOO / "base", ZOO / "add", tmp_path / "out")
    )
    name = "model.layers.0.mlp.up_proj.weight"
    expected = (0.75 * base[name].float() + 0.25 * add[name].float()).to(out[name].dtype)
    assert torch.equal(out[name], expected)


def test_a_method_of_a_package_may_bring_an_operation_of_its_own(command: Command, tmp_path: Path) -> None:
    document = {
        "merge_method": "clamped",
        "base_model": str(ZOO / "base"),
        "models": [{"model": str(ZOO / "add")}],
        "parameters": {"limit": 0.002},
        "dtype": "float32",
    }
    (tmp_path / "r.yml").write_text(yaml.safe_dump(document))
    done = command("merge", "r.yml", "out")
    assert done.returncode == 0, done.stderr
    base, add, out = (
        load_file(folder / "model.safetensors") for folder in (ZOO / "base", ZOO / "add", tmp_path / "out")
    )
    name = "model.layers.0.mlp.up_proj.weight"
    change = add[name].float() - base[name].float()
    assert change.abs().max() > 0.002
    assert torch.equal(out[name], base[name].float() + change.clamp(-0.002, 0.002))


@pytest.mark.slow
def test_all_parts_of_a_package_serve_a_search_on_ray_workers(command: Command, tmp_path: Path) -> None:
    document = {
        **changed("recipe", RECIPE),
        "search": {"sampler": "halton", "skip": 5, "trials": 8, "population": 4, "top_k": 2},
        "workers": {"backend": "ray", "count": 2},
        "observers": ["jsonl"],
    }
    document["fitness"]["objective"] = "worst_task"
    document["models"] = {name: str(ZOO / name) for name in ("base", "add")}
    (tmp_path / "e.yml").write_text(yaml.safe_dump({**document, "name": "plugged"}))
    checked = command("check", "e.yml")
    assert checked.returncode == 0, checked.stderr
    assert "halton" in checked.stdout
    done = command("search", "e.yml", "--json")
    assert done.returncode == 0, done.stderr
    trials = [t for t in json.loads(done.stdout)["trials"] if t["failure"] is None]
    assert len([t for t in trials if t["kind"] == "candidate"]) == 8
    for trial in trials:
        assert trial["score"] == min(trial["tasks"].values())
    written = [json.loads(line) for line in (tmp_path / "runs/plugged/trials.jsonl").read_text().splitlines()]
    assert {w["name"]: w["score"] for w in written} == {t["name"]: t["score"] for t in trials}
    assert command("export", "plugged", "-o", "best.yml").returncode == 0
    merged = command("merge", "best.yml", "best")
    assert merged.returncode == 0, merged.stderr
    assert "fingerprint" in (merged.stdout + merged.stderr).lower()
    # Without the package the study can be shown, and what is missing is one message.
    away = subprocess.run(
        [sys.executable, "-m", "evomerge.cli.main", "merge", "best.yml", "again"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert away.returncode == 2
    assert "there is no merge method 'halfway'" in away.stderr


def test_a_package_that_cannot_be_imported_is_named_and_costs_its_own_parts_only(
    command: Command, site: Path, tmp_path: Path
) -> None:
    broken = site / "broken_plugin.py"
    info = site / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[evomerge.methods]\nbroken = broken_plugin\n")
    broken.write_text("import no_such_module_at_all\n")
    try:
        told = command("methods", "halfway")
        assert told.returncode == 0
        assert "'broken' of the package broken cannot be loaded" in told.stderr
        assert "no_such_module_at_all" in told.stderr
    finally:
        broken.unlink()
        shutil.rmtree(info)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("fitness.objective", "worst", "there is no objective 'worst'"),
        ("observers", ["wandb"], "there is no observer 'wandb'"),
        ("search.sampler", "halton", "there is no sampler 'halton'"),
    ],
)
def test_a_part_that_no_package_has_is_one_message(place: str, value: Any, told: str, tmp_path: Path) -> None:
    (tmp_path / "e.yml").write_text(yaml.safe_dump(changed(place, value)))
    done = subprocess.run(
        [sys.executable, "-m", "evomerge.cli.main", "check", "e.yml"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
