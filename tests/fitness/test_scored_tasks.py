"""What a study scored is told apart by what changed; solved examples are never items that judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fitness_support import write_jsonl

from evomerge.errors import FitnessError
from evomerge.fitness import Evaluator, Split
from evomerge.fitness.scored import ScoredDigest
from evomerge.fitness.spec import FitnessSpec

TASK: dict[str, Any] = {
    "task": "colors",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "train": "train.jsonl"}},
    "test_split": "test",
    "fewshot_split": "test",
    "num_fewshot": 2,
    "output_type": "generate_until",
    "doc_to_text": "What color is {{q}}?",
    "doc_to_target": "{{a}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match"}],
}
COLORS = ["red", "green", "blue", "gold"]


def _tasks(folder: Path, count: int = 60, **changed: Any) -> Path:
    rows = [{"q": f"w{i}", "a": COLORS[i % 4]} for i in range(count)]
    write_jsonl(folder / "rows.jsonl", rows)
    write_jsonl(folder / "train.jsonl", [*rows[:20], *({"q": f"t{i}", "a": COLORS[i % 4]} for i in range(5))])
    task = {key: value for key, value in (TASK | changed).items() if value is not None}
    (folder / "colors.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder


def _evaluator(folder: Path, *, as_drawn: bool = False, **task: Any) -> Evaluator:
    spec = FitnessSpec.model_validate(
        {
            "include_path": str(folder),
            "tasks": [{"task": "colors", **task}],
            "splits": {"search": 0.4, "validation": 0.3, "test": 0.3},
        }
    )
    return Evaluator(spec, folder, as_drawn=as_drawn)


def _prompts(evaluator: Evaluator) -> dict[Split, list[list[str]]]:
    """By split, the words that each prompt shows: those of the examples, and last its own."""
    (task,) = evaluator._tasks
    return {
        split: [re.findall(r"color is (\w+)\?", item.instances[0].args[0]) for item in task._items(split)]
        for split in Split
    }


def test_examples_of_the_evaluated_split_are_other_search_items(tmp_path: Path) -> None:
    prompts = _prompts(_evaluator(_tasks(tmp_path)))
    own = {split: {words[-1] for words in each} for split, each in prompts.items()}
    for each in prompts.values():
        for *examples, asked in each:
            assert len(examples) == 2
            assert set(examples) <= own[Split.SEARCH] - {asked}
    assert _prompts(_evaluator(tmp_path)) == prompts
    drawn = _prompts(_evaluator(tmp_path, as_drawn=True))
    assert {w for *examples, _ in drawn[Split.SEARCH] for w in examples} - own[Split.SEARCH], "as in 0.1.0"


def test_a_first_n_sampler_takes_search_items_too(tmp_path: Path) -> None:
    prompts = _prompts(_evaluator(_tasks(tmp_path, fewshot_config={"sampler": "first_n"})))
    own = {words[-1] for words in prompts[Split.SEARCH]}
    assert all(set(examples) <= own - {w} for each in prompts.values() for *examples, w in each)


def test_examples_of_another_split_leave_out_documents_that_are_evaluated(tmp_path: Path) -> None:
    evaluator = _evaluator(_tasks(tmp_path, fewshot_split="train"))
    shown = {w for each in _prompts(evaluator).values() for *examples, _ in each for w in examples}
    assert shown == {f"t{i}" for i in range(5)}
    assert evaluator.describe()[0].examples == "the train split"


def test_more_examples_than_there_are_is_an_error_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(FitnessError, match="num_fewshot") as caught:
        _evaluator(_tasks(tmp_path), num_fewshot=24).describe()
    assert "23 (from search items)" in str(caught.value)


def _labels(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    write_jsonl(folder / "rows.jsonl", [{"q": r["q"], "a": r["a"] + "!"} for r in rows])


EDITS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "labels": (_labels, "60 items with other targets"),
    "shots": (lambda f: _tasks(f, num_fewshot=1), "few-shot examples: 2 from search items -> 1"),
    "prompt": (lambda f: _tasks(f, doc_to_text="Color of {{q}}:"), "60 items with another prompt"),
    "generation": (
        lambda f: _tasks(f, generation_kwargs={"until": ["\n"], "max_gen_toks": 5}),
        "generation options",
    ),
    "removed": (lambda f: _tasks(f, count=57), "3 items removed"),
    "metric": (
        lambda f: _tasks(f, metric_list=[{"metric": "exact_match", "ignore_case": True}]),
        "metric settings",
    ),
    "version": (lambda f: _tasks(f, metadata={"version": 3.0}), "task version"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_a_task_is_told_by_what_it_changes(edit: str, tmp_path: Path) -> None:
    change, told = EDITS[edit]
    before = _evaluator(_tasks(tmp_path)).digest()
    kept = ScoredDigest.from_document(json.loads(json.dumps(before.document())))
    assert not kept.changes(_evaluator(tmp_path).digest())
    change(tmp_path)
    changes = kept.changes(_evaluator(tmp_path).digest())
    assert list(changes) == ["colors"]
    assert told in "; ".join(changes["colors"])
