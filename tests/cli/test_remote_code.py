"""Untrusted code does not run unless the experiment says so, and then the command says so, too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import changed
from support import ZOO
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.errors import EvomergeError
from evomerge.fitness.spec import FitnessSpec

Write = Callable[[dict[str, Any]], Path]
WARNING = "trust_remote_code is on"


def test_remote_code_is_off_unless_asked_for() -> None:
    assert FitnessSpec.model_validate({"tasks": ["x"]}).trust_remote_code is False


@pytest.mark.parametrize("given", ["yes", 1, "true"])
def test_remote_code_is_not_switched_on_by_something_like_true(given: Any) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        FitnessSpec.model_validate({"tasks": ["x"], "trust_remote_code": given})


@pytest.mark.parametrize("command", ["check", "search", "eval"])
@pytest.mark.parametrize("trusted", [True, False])
def test_remote_code_is_announced_where_it_is_on(
    command: str, trusted: bool, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = changed("fitness.trust_remote_code", trusted)
    document["fitness"]["tasks"] = ["no_such_task"]  # so that nothing is scored
    path = str(write(document))
    arguments = [command, str(ZOO / "add"), "--fitness", path] if command == "eval" else [command, path]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, EvomergeError)
    assert (WARNING in result.stderr) is trusted


def test_code_that_lies_in_a_model_folder_does_not_run(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(ZOO / "add", tmp_path / "evil"))
    for part in ("configuration", "modeling", "tokenization"):
        (folder / f"{part}_evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_evil.Evil",
        "AutoModelForCausalLM": "modeling_evil.Evil",
        "AutoTokenizer": ["tokenization_evil.Evil", None],
    }
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_evil.Evil", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    document = changed("fitness.tasks", ["zoo_add"])
    document["recipe"]["tokenizer"] = {"source": "union"}
    document["models"]["add"] = str(folder)
    path = write(document)
    for arguments in (["check", str(path)], ["eval", str(folder), "--fitness", str(path)]):
        result = CliRunner().invoke(app, arguments)
        assert result.exception is None or isinstance(result.exception, EvomergeError), result.output
        assert not (tmp_path / "owned").exists()
