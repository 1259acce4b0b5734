"""The commands, end to end on the zoo: search, stop, kill, resume, export, merge, evaluate."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import EXPERIMENT, Cli, changed, environment
from support import ROOT, ZOO

Write = Callable[[dict[str, Any]], Path]


def decisive(document: dict[str, Any]) -> list[Any]:
    """What must be equal between two runs of one study: all but times, attempts and numbers."""
    keys = ("name", "kind", "generation", "index", "score", "values", "tasks", "failure", "fingerprint")
    trials = [{k: t[k] for k in keys} for t in document["trials"]]
    rows = [
        (r["name"], r["winner"], r["search"], r["validation"], r["test"]) for r in document["leaderboard"]
    ]
    return [trials, rows]


def test_help_starts_fast_because_nothing_heavy_is_imported() -> None:
    heavy = ["torch", "transformers", "lm_eval", "ray", "optuna", "cma", "pandas", "numba"]
    code = f"import sys, evomerge.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_study_from_search_to_a_merged_model(cli: Cli, write: Write, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = write(EXPERIMENT)
    first = cli("search", path)
    assert first.returncode == 0, first.stderr
    assert "New study 'small': 8 candidates" in first.stdout
    for name in ("base", "add", "reverse", "sort", "uniform", "ties"):
        assert f"{name} " in first.stdout

    again = cli("search", path)
    assert again.returncode == 0, again.stderr
    assert "Resuming study 'small': 8 of 8" in again.stdout

    status = json.loads(cli("status", "small", "--json").stdout)
    assert status["candidates"] == 8
    winner = next(r for r in status["leaderboard"] if r["winner"])
    assert winner["validation"] == max(
        r["validation"] for r in status["leaderboard"] if r["validation"] is not None
    )
    assert winner["test"] is not None

    exported = json.loads(cli("export", "runs/small", "-o", "best.yml", "--json").stdout)
    assert exported["name"] == winner["name"]
    merged = json.loads(cli("merge", "best.yml", "merged", "--json").stdout)
    assert merged["verified"] is True
    assert merged["fingerprint"] == winner["fingerprint"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")

    scored = json.loads(cli("eval", "merged", "--fitness", path, "--json").stdout)
    assert scored["score"] == pytest.approx(winner["test"])
    assert scored["fingerprint"] == winner["fingerprint"]

    recipe = (tmp_path / "best.yml").read_text()
    (tmp_path / "forged.yml").write_text(recipe.replace(exported["fingerprint"], "0" * 32))
    forged = cli("merge", "forged.yml", "forged")
    assert forged.returncode == 2
    assert "fingerprint" in forged.stderr
    assert not (tmp_path / "forged").exists()

    other = json.loads(cli("export", "small", "--trial", "1", "-o", "other.yml", "--json").stdout)
    assert other["trial"] == 1
    table = cli("status", "small", "--markdown").stdout
    assert f"| **{winner['name']}** |" in table

    (tmp_path / "runs" / "small").rename(tmp_path / "moved")
    assert json.loads(cli("status", "moved", "--json").stdout)["trials"] == status["trials"]
    (tmp_path / "moved").rename(tmp_path / "runs" / "small")
    more = cli("search", path, "--trials", "10")
    assert "8 of 10 candidates are done" in more.stdout


@pytest.mark.slow
def test_a_storage_of_its_own_is_found_by_folder_and_by_name_and_a_half_validated_study_says_so(
    cli: Cli, write: Write, tmp_path: Path
) -> None:
    import sqlite3

    path, url = write(EXPERIMENT), "sqlite:///elsewhere.db"
    done = cli("search", path, "--storage", url, "--study", "mine", "--out", "here")
    assert done.returncode == 0, done.stderr
    assert f"evomerge export here --storage {url} -o here/best.yml" in done.stdout
    assert "Name its storage with --storage" in cli("status", "here").stderr
    assert "elsewhere" not in (tmp_path / "here" / "run.json").read_text()
    for study in ("here", "mine"):
        assert json.loads(cli("status", study, "--storage", url, "--json").stdout)["study"] == "mine"

    connection = sqlite3.connect(tmp_path / "elsewhere.db")
    kept = "select min(study_user_attribute_id) from study_user_attributes where key like 'validation/%'"
    connection.execute(
        "delete from study_user_attributes where key like 'validation/%' "
        f"and study_user_attribute_id <> ({kept})"
    )
    connection.commit()
    connection.close()
    assert "1 of 2 finalists are still to be validated" in cli("status", "mine", "--storage", url).stdout
    exported = cli("export", "mine", "--storage", url, "-o", "best.yml")
    assert exported.returncode == 0, exported.stderr
    assert "1 of 2 finalists have not been validated yet" in " ".join(exported.stderr.split())


@pytest.mark.slow
def test_a_killed_search_ends_like_one_that_was_never_killed(cli: Cli, write: Write, tmp_path: Path) -> None:
    path = write(changed("search.trials", 16))
    assert cli("search", path, "--out", "calm").returncode == 0
    calm = json.loads(cli("status", "calm", "--json").stdout)

    rng = random.Random(5)
    command = [sys.executable, "-m", "evomerge.cli.main", "search", str(path), "--out", "killed"]
    kills = 0
    while kills < 4:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=rng.uniform(3.0, 9.0))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 1
    assert cli("search", path, "--out", "killed").returncode == 0
    killed = json.loads(cli("status", "killed", "--json").stdout)
    assert decisive(killed) == decisive(calm)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(cli: Cli, write: Write, tmp_path: Path) -> None:
    path = write(changed("search.trials", 400))
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "evomerge.cli.main", "search", str(path)],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "generation 0" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Continue with:" in out
    assert "search" in out.splitlines()[-1]
    assert err == ""
    status = json.loads(cli("status", "small", "--json").stdout)
    assert 4 <= status["candidates"] < 400
    early = cli("export", "small", "-o", "early.yml")
    assert early.returncode == 0
    assert "partly luck" in early.stderr


@pytest.mark.slow
def test_two_ray_workers_find_what_one_inline_worker_finds(cli: Cli, write: Write) -> None:
    path = write(EXPERIMENT)
    inline = json.loads(cli("search", path, "--json", "--out", "inline").stdout)
    ray = cli("search", path, "--json", "--workers", "2", "--out", "ray")
    assert ray.returncode == 0, ray.stderr
    assert decisive(json.loads(ray.stdout)) == decisive(inline)


def test_check_reads_no_weights(cli: Cli, write: Write, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "add"
    shutil.copytree(ZOO / "add", folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    file.write_bytes(data[:header] + b"\xff" * (len(data) - header))  # NaN everywhere
    done = cli("check", write(changed("models.add", str(folder))))
    assert done.returncode == 0, done.stderr
    assert "3 dimensions" in done.stdout
    assert "Everything fits." in done.stdout


def test_check_tells_models_that_nothing_uses(cli: Cli, write: Write) -> None:
    document = changed("recipe.models", [{"model": "add", "parameters": {"weight": {"float": [0, 1]}}}])
    done = cli("check", write(document))
    assert done.returncode == 0, done.stderr
    assert "models.sort is not used by the recipe" in done.stderr


def test_check_tells_settings_of_workers_that_do_nothing_inline(cli: Cli, write: Write) -> None:
    workers = {"timeout": 60, "address": "auto"}
    warnings = json.loads(cli("check", write(changed("workers", workers)), "--json").stdout)["warnings"]
    assert [warning.split(" needs")[0] for warning in warnings] == ["workers.address"]
    ray = changed("workers", {"backend": "ray", **workers})
    assert json.loads(cli("check", write(ray), "--json").stdout)["warnings"] == []


def test_candidates_that_take_too_long_inline_fail_as_such(cli: Cli, write: Write) -> None:
    done = cli("search", write(changed("workers.timeout", 1e-6)))
    assert done.returncode == 2
    assert "4 of 4 candidates failed (4 timeout); the last: not finished after 1e-06 seconds" in " ".join(
        done.stderr.split()
    )


def test_check_tells_workers_that_no_generation_keeps_busy(cli: Cli, write: Write) -> None:
    document = changed("workers", {"backend": "ray", "count": 9}) | {"search": {"population": 6, "lag": 2}}
    done = cli("check", write(document))
    assert "workers.count is 9, but no more than 8 candidates are proposed at a time" in done.stderr
    assert "lag 2" in done.stdout
    document["search"] = {"population": 6, "lag": 3}
    assert cli("check", write(document)).stderr == ""


def test_check_as_json_lists_dimensions_tasks_and_memory(cli: Cli, write: Write) -> None:
    document = json.loads(cli("check", write(EXPERIMENT), "--json").stdout)
    assert [d["name"] for d in document["dimensions"]] == ["add.weight", "reverse.weight", "sort.weight"]
    assert {t["task"]: t["items"]["search"] for t in document["tasks"]} == {"zoo_add": 20, "zoo_sort": 20}
    assert document["baselines"] == ["base", "add", "reverse", "sort", "uniform", "ties"]
    assert document["memory"]["sources"] > 0


def test_methods_lists_every_method_with_its_parameters(cli: Cli) -> None:
    from evomerge.methods import methods

    listed = {m["name"]: m for m in json.loads(cli("methods", "--json").stdout)}
    assert set(listed) == {m.name for m in methods()}
    assert {p["name"] for p in listed["ties"]["parameters"]} >= {"weight", "density", "lambda", "normalize"}
    assert "density" in cli("methods", "ties").stdout


def test_init_lists_and_copies_a_space_that_an_experiment_can_use(
    cli: Cli, write: Write, tmp_path: Path
) -> None:
    listed = cli("init").stdout
    names = sorted(p.stem for p in (ROOT / "search_spaces").glob("*.yml"))
    assert all(name in listed for name in names)
    assert cli("init", "ties").returncode == 0
    assert (tmp_path / "ties.yml").read_text() == (ROOT / "search_spaces" / "ties.yml").read_text()
    assert cli("init", "ties").returncode == 2  # never over a file of the user's


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "search_spaces").glob("*.yml")))
def test_every_ready_made_space_fits_the_zoo(
    name: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from evomerge.cli.main import app

    monkeypatch.chdir(tmp_path)
    document = changed("recipe", None)
    document["space"] = name
    if name.startswith("slerp"):
        document["models"] = {k: document["models"][k] for k in ("base", "add")}
    result = CliRunner().invoke(app, ["check", str(write(document))])
    assert result.exit_code == 0, result.exception


def test_a_relative_model_is_found_from_the_current_folder_then_from_the_recipes(
    cli: Cli, tmp_path: Path
) -> None:
    import shutil

    (tmp_path / "deep").mkdir()
    shutil.copytree(ZOO / "add", tmp_path / "deep" / "mine")
    (tmp_path / "deep" / "r.yml").write_text("merge_method: passthrough\nmodels: [{model: mine}]\n")
    assert cli("merge", "deep/r.yml", "out").returncode == 0
    shutil.copytree(ZOO / "sort", tmp_path / "mine")
    second = json.loads(cli("merge", "deep/r.yml", "out2", "--json").stdout)
    third = json.loads(cli("merge", "deep/r.yml", "out3", "--json", "--dtype", "float32").stdout)
    assert second["fingerprint"] != third["fingerprint"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != (
        tmp_path / "out2" / "model.safetensors"
    ).read_bytes()


def test_the_lines_that_a_log_gets_have_no_escape_codes(cli: Cli, write: Write) -> None:
    assert "\x1b" not in cli("search", write(changed("search.trials", 1))).stdout
