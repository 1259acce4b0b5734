"""Errors of a task's data name the place at fault: a file, a line, a folder, a cache, the hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fitness_support import definition

from evomerge.errors import FitnessError
from evomerge.fitness import Evaluator, FitnessSpec

ROWS = [json.dumps({"text": f"word {i}"}) for i in range(40)]


def _task(folder: Path, files: str, path: str = "json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = definition("t", "loglikelihood_rolling", "", "'{{text}}'", "", files=files)
    (folder / "t.yaml").write_text(text.replace("dataset_path: json", f"dataset_path: {path}"))


def _error(folder: Path, name: str = "t") -> str:
    spec = FitnessSpec.model_validate({"tasks": [name], "include_path": str(folder)})
    with pytest.raises(FitnessError) as caught:
        Evaluator(spec, folder).describe()
    return str(caught.value)


def _no_advice_to_fetch(text: str) -> None:
    assert "fetch" not in text.lower()
    assert "HF_HUB_OFFLINE" not in text


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([*ROWS[:7], '{"text": "cut', *ROWS[8:]], "not valid JSON (line 8: "),
        ([*ROWS, "\udcff"], "not in UTF-8 (line 41)"),
        ([], "its data is empty"),
    ],
    ids=["cut line", "other encoding", "empty"],
)
def test_a_broken_file_is_named_with_its_line(rows: list[str], told: str, tmp_path: Path) -> None:
    _task(tmp_path, "test: rows.jsonl")
    text = "\n".join(rows).encode("utf-8", "surrogateescape")
    (tmp_path / "rows.jsonl").write_bytes(text)
    said = _error(tmp_path)
    assert told in said
    assert str(tmp_path / "rows.jsonl") in said
    _no_advice_to_fetch(said)


@pytest.mark.parametrize(("suffix", "path"), [("parquet", "parquet"), ("csv", "csv")])
def test_a_broken_file_of_another_format_is_named_once(
    suffix: str, path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _task(tmp_path, f"test: rows.{suffix}", path)
    (tmp_path / f"rows.{suffix}").write_text('q,a\n1,2\n"open\n')
    said = _error(tmp_path)
    assert f"its data in {tmp_path / f'rows.{suffix}'} cannot be read" in said
    assert capfd.readouterr().err == ""


def test_files_that_are_not_there_are_named_where_they_should_be(tmp_path: Path) -> None:
    _task(tmp_path / "one", "test: rows.jsonl")
    assert f"there is no file {tmp_path / 'one/rows.jsonl'}" in _error(tmp_path / "one")
    _task(tmp_path / "two", "test: '*.none'")
    assert f"no file matches {tmp_path / 'two/*.none'}" in _error(tmp_path / "two")
    _task(tmp_path / "three", "test: rows.jsonl")
    (tmp_path / "three/rows.jsonl").symlink_to("/nowhere/rows.jsonl")
    assert "is a link to /nowhere/rows.jsonl, which does not exist" in _error(tmp_path / "three")
    _task(tmp_path / "four", "test: rows.jsonl")
    (tmp_path / "four/rows.jsonl").mkdir()
    assert f"{tmp_path / 'four/rows.jsonl'} is a folder" in _error(tmp_path / "four")


def test_patterns_and_links_of_data_files_are_read(tmp_path: Path) -> None:
    _task(tmp_path, "test: 'part*.jsonl'")
    (tmp_path / "kept.jsonl").write_text("\n".join(ROWS[:20]))
    (tmp_path / "part1.jsonl").symlink_to("kept.jsonl")
    (tmp_path / "part2.jsonl").write_text("\n".join(ROWS[20:]))
    spec = FitnessSpec.model_validate({"tasks": ["t"], "include_path": str(tmp_path)})
    assert sum(Evaluator(spec, tmp_path).describe()[0].items.values()) == 40


def test_a_definition_that_cannot_be_read_is_told_where_its_task_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("task: t\ndataset_path: [json\n")
    assert f"no task 't'. Not read: {tmp_path / 't.yaml'} is not valid YAML (line 3)" in _error(tmp_path)


def test_a_cache_that_cannot_be_made_is_not_blamed_on_the_task_or_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    _task(tmp_path, "test: rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("\n".join(ROWS))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file/datasets"))
    said = _error(tmp_path)
    assert f"the cache for prepared data cannot be used ({tmp_path / 'file/datasets'}: Not a dir" in said
    assert "Set HF_HOME" in said
    _no_advice_to_fetch(said)


def test_a_damaged_copy_in_the_cache_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    _task(tmp_path / "task", "test: rows.jsonl")
    (tmp_path / "task/rows.jsonl").write_text("\n".join(ROWS))
    spec = FitnessSpec.model_validate({"tasks": ["t"], "include_path": str(tmp_path / "task")})
    Evaluator(spec, tmp_path).describe()
    (copy,) = (tmp_path / "cache").rglob("*.arrow")
    copy.unlink()  # not written over: it is mapped
    copy.write_text("x")
    said = _error(tmp_path / "task")
    assert f"the copy of its data in the cache {tmp_path / 'cache'} is damaged" in said
    assert "rows.jsonl" not in said


CLOSED = """
import sys
from pathlib import Path
from evomerge.errors import FitnessError
from evomerge.fitness import Evaluator, FitnessSpec
for folder in sys.argv[1:]:
    spec = FitnessSpec.model_validate({"tasks": ["t"], "include_path": folder})
    try:
        Evaluator(spec, Path(folder)).describe()
    except FitnessError as error:
        print(error)
"""


def test_files_folders_and_caches_that_may_not_be_used_are_told_apart(tmp_path: Path) -> None:
    as_others = []
    if os.geteuid() == 0:  # who may read everything
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv to give its rights up")
        rights = "-dac_override,-dac_read_search"
        as_others = ["setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}"]
    for name, files in (("file", "rows.jsonl"), ("folder", "sub/rows.jsonl"), ("cache", "rows.jsonl")):
        _task(tmp_path / name, f"test: {files}")
        (tmp_path / name / files).parent.mkdir(exist_ok=True)
        (tmp_path / name / files).write_text("\n".join(ROWS))
    home = tmp_path / "home"
    home.mkdir()
    closed = (tmp_path / "file/rows.jsonl", tmp_path / "folder/sub")
    try:
        for place in closed:
            place.chmod(0)
        home.chmod(0o555)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
        done = subprocess.run(
            [*as_others, sys.executable, "-c", CLOSED, *(tmp_path / n for n in ("file", "folder", "cache"))],
            env={**environment, "HOME": str(home), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for place in (*closed, home):
            place.chmod(0o700)
    file, folder, cache = done.stdout.splitlines()
    assert f"its data file {closed[0]} cannot be read (Permission denied)" in file
    assert f"no permission for {closed[1]}" in folder
    assert f"the cache for prepared data cannot be used ({home}/.cache: Permission denied)" in cache
    _no_advice_to_fetch(done.stdout)
