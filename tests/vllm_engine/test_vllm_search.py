"""A search whose candidates vLLM runs: from file to export, killed and resumed, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT, environment
from support import ZOO
from vllm_support import ENGINE_ARGS

from evomerge.study.study import Study

NAMES = ("base", "add", "sort")


def experiment(zoo: Path, **workers: Any) -> dict[str, Any]:
    return {
        **EXPERIMENT,
        "models": {name: str(zoo / name) for name in NAMES},
        "search": {"trials": 8, "population": 4, "seed": 3, "top_k": 2},
        "workers": {
            "dtype": "float32",
            "device": "cpu",
            "engine": "vllm",
            "engine_args": ENGINE_ARGS,
            **workers,
        },
    }


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "evomerge.cli.main", *map(str, arguments)]


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def written(folder: Path, document: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def snapshot(folder: Path) -> Any:
    with Study.open(f"sqlite:///{folder / 'runs' / 'small' / 'study.db'}", "small") as study:
        return study.snapshot()


@pytest.fixture(scope="module")
def searched(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that nobody disturbed."""
    folder = tmp_path_factory.mktemp("searched")
    done = run(folder, "search", written(folder, experiment(zoo)))
    assert done.returncode == 0, done.stderr
    return folder


def test_the_winner_of_a_search_is_exported_as_it_was_scored(searched: Path, zoo: Path) -> None:
    for arguments in (("export", "runs/small", "-o", "winner.yml"), ("merge", "winner.yml", "winner")):
        done = run(searched, *arguments)
        assert done.returncode == 0, done.stderr
    plain = written(searched / "plain", {**experiment(zoo), "workers": {"dtype": "float32", "device": "cpu"}})
    scored = [
        json.loads(run(searched, "eval", "winner", "--fitness", file, "--json", "--device", "cpu").stdout)
        for file in (searched / "experiment.yml", plain)
    ]
    assert scored[0]["fingerprint"] == scored[1]["fingerprint"]
    assert scored[0]["score"] == scored[1]["score"]


def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(
    searched: Path, zoo: Path, tmp_path: Path
) -> None:
    path = written(tmp_path, experiment(zoo))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command("search", path),
            cwd=tmp_path,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        database = tmp_path / "runs" / "small" / "study.db"
        until = time.monotonic() + 400
        while time.monotonic() < until and process.poll() is None:
            if database.exists() and trials(database) >= 4:
                break
            time.sleep(0.5)
        assert process.poll() is None, (tmp_path / "log").read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run(tmp_path, "search", path)
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path) == snapshot(searched)


def trials(database: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM trials").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_another_engine_is_another_experiment(searched: Path, zoo: Path) -> None:
    other = searched / "other.yml"
    other.write_text(yaml.safe_dump({**experiment(zoo), "workers": {"dtype": "float32", "device": "cpu"}}))
    done = run(searched, "check", other)
    assert done.returncode == 2
    assert "workers.engine" in done.stderr


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an argument that is misspelt": (
        {"engine_args": {"max_model_lenn": 64}},
        "workers.engine_args.max_model_lenn: vLLM has no such argument. Did you mean 'max_model_len'",
    ),
    "an argument that is ours": (
        {"engine_args": {"dtype": "float16"}},
        "workers.engine_args.dtype: cannot be set: use workers.dtype",
    ),
    "a value that vLLM refuses": (
        {"engine_args": {**ENGINE_ARGS, "max_num_seqs": -3}},
        "vLLM cannot run this model",
    ),
    "a device that is not there": ({"device": "cuda"}, "device: 'cuda' is not there"),
    "quantization on a CPU": (
        {"quantization": "fp8_per_tensor"},
        "workers.quantization: 'fp8_per_tensor' needs a GPU",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_a_search(name: str, zoo: Path, tmp_path: Path) -> None:
    workers, message = REFUSED[name]
    done = run(tmp_path, "search", written(tmp_path, experiment(zoo, **workers)))
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "small" / "study.db").exists()


def test_a_model_that_vllm_cannot_run_is_refused_before_a_search_with_its_reason(tmp_path: Path) -> None:
    done = run(tmp_path, "search", written(tmp_path, experiment(ZOO)))
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "workers.engine: vllm cannot run this model: " in said
    assert "head_dim=16" in said
    assert not (tmp_path / "runs" / "small" / "study.db").exists()


@pytest.mark.slow
def test_workers_of_ray_with_an_engine_each_make_the_same_study(
    searched: Path, zoo: Path, tmp_path: Path
) -> None:
    path = written(tmp_path, experiment(zoo, backend="ray", count=2))
    done = run(tmp_path, "search", path)
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path) == snapshot(searched)
