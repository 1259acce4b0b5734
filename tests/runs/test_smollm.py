"""experiments/smollm: its items, and its experiment file against a stand-in for the base."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
from support import LLAMA, ROOT, ZOO, llama_shapes

from evomerge import Experiment, Run

SMOLLM = ROOT / "experiments" / "smollm"
sys.path.insert(0, str(SMOLLM))
import data  # noqa: E402

TASKS = ("english", "italian", "target")
NUMBER = {word: n for language in ("en", "it") for n, word in enumerate(data.WORDS[language], start=1)}
SMOLLM2 = LLAMA | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}


def items(name: str) -> list[dict[str, object]]:
    lines = (SMOLLM / "tasks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def calculated(prompt: str) -> int:
    """The answer to a word problem, from its words."""
    first, second = (NUMBER[word] for word in re.findall(r"\w+", prompt) if word in NUMBER)
    added = re.search(r"\w more\.|together|altr[ei]|insieme", prompt)
    return first + second if added else first - second


def test_the_committed_items_are_what_the_generator_makes_in_any_process(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, SMOLLM / "data.py", tmp_path],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    for name in TASKS:
        made = (tmp_path / f"{name}.jsonl").read_bytes()
        assert made == (SMOLLM / "tasks" / f"{name}.jsonl").read_bytes()
    assert set(data.build()) == {path.stem for path in tmp_path.iterdir()}


def test_no_situation_is_in_two_tasks_or_in_a_task_and_in_training() -> None:
    drawn = {name: set(situations) for name, (situations, _) in data.draw().items()}
    for task in TASKS:
        for other in drawn.keys() - {task}:
            assert not drawn[task] & drawn[other], (task, other)


@pytest.mark.parametrize("name", TASKS)
def test_items_have_four_different_choices_and_no_prompt_twice(name: str) -> None:
    found = items(name)
    assert len({item["prompt"] for item in found}) == len(found) == data.ITEMS
    assert all(len(set(item["choices"])) == 4 for item in found)


@pytest.mark.parametrize("name", ["english", "target"])
def test_the_right_choice_of_a_word_problem_is_its_result(name: str) -> None:
    for item in items(name):
        assert int(item["choices"][item["answer"]]) == calculated(item["prompt"]), item


def sparse_base(folder: Path) -> None:
    """A folder with the headers of SmolLM2-135M and zeros for weights, which take no room on the disk."""
    shutil.copytree(ZOO / "base", folder)
    (folder / "config.json").write_text(json.dumps(SMOLLM2))
    header, end = {}, 0
    for name, shape in llama_shapes(SMOLLM2).items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def test_the_experiment_passes_every_check_before_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "smollm"
    shutil.copytree(SMOLLM, here, ignore=shutil.ignore_patterns("base"))
    sparse_base(here / "base")
    monkeypatch.chdir(tmp_path)
    check = Run(Experiment.load(here / "experiment.yml")).check()
    assert {task.task for task in check.tasks} == {f"smollm_{name}" for name in TASKS}
    assert all(sum(task.items.values()) == 460 for task in check.tasks)
    assert set(check.baselines) == {"base", "arithmetic", "language", "uniform", "ties"}
    assert len(check.dimensions) == 6
