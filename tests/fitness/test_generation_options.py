"""Options of generated answers: what an experiment replaces, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fitness_support import generation, make_model

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import ExperimentError, FitnessError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Split
from evomerge.recipe import parse


def evaluator(folder: Path, *tasks: Any, **settings: Any) -> Evaluator:
    spec = {"tasks": tasks, "include_path": str(folder), "batch_size": 8, **settings}
    return Evaluator(parse(FitnessSpec, spec, ExperimentError), folder)


def answers(ours: Evaluator, tokenizer: Any) -> list[list[str]]:
    """What the model said to each search item."""
    ours.score(LoadedModel(make_model(0), tokenizer), ItemSet(Split.SEARCH))
    (task,) = ours._tasks
    return [item.instances[0].resps for item in task._items(Split.SEARCH)]


def options(ours: Evaluator) -> dict[str, Any]:
    (task,) = ours._tasks
    found: dict[str, Any] = task._items(Split.SEARCH)[0].instances[0].args[1]
    return found


def test_options_of_a_task_win_over_those_of_all_and_these_over_its_definition(tasks_dir: Path) -> None:
    own = {"until": "x", "temperature": 0.5}
    general = {"max_gen_toks": 3, "until": ["y"], "top_p": 0.9, "seed": 7}
    ours = evaluator(tasks_dir, {"task": "t_generate", "generation": own}, generation=general)
    assert options(ours) == {
        "until": ["x"], "max_gen_toks": 3, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "seed": 7,
    }  # fmt: skip
    assert options(evaluator(tasks_dir, "t_generate")) == {
        "until": ["\n"], "max_gen_toks": 6, "do_sample": False,
    }  # fmt: skip
    greedy = evaluator(tasks_dir, "t_sampled", generation={"temperature": 0, "seed": 7})
    assert options(greedy) == {"until": ["\n"], "max_gen_toks": 2, "do_sample": False}
    assert options(evaluator(tasks_dir, "t_generate", generation={"until": []}))["until"] == []


def test_answers_follow_the_options(tasks_dir: Path, tokenizer: Any) -> None:
    plain = answers(evaluator(tasks_dir, "t_generate"), tokenizer)
    short = answers(evaluator(tasks_dir, "t_generate", generation={"max_gen_toks": 2}), tokenizer)
    assert [[text[:2] for text in each] for each in plain] == short != plain
    stop = plain[0][0][1]
    cut = answers(evaluator(tasks_dir, "t_generate", generation={"until": stop}), tokenizer)
    assert cut == [[text.split(stop)[0] for text in each] for each in plain] != plain
    penalised = {"repetition_penalty": 5.0}
    assert answers(evaluator(tasks_dir, "t_generate", generation=penalised), tokenizer) != plain


def test_sampled_answers_are_those_of_their_seed(tasks_dir: Path, tokenizer: Any) -> None:
    def drawn(**settings: Any) -> list[list[str]]:
        ours = evaluator(tasks_dir, "t_generate", generation={"temperature": 1.0, **settings})
        first = answers(ours, tokenizer)
        assert answers(ours, tokenizer) == first
        return first

    assert drawn(seed=1234) == drawn()
    assert drawn(seed=1) != drawn(seed=2)
    assert drawn(top_k=1) == answers(evaluator(tasks_dir, "t_generate"), tokenizer)
    assert answers(evaluator(tasks_dir, "t_sampled"), tokenizer)[0] != [""] * 3


CANNOT_BE = [
    (
        {"generation": {"temprature": 1}},
        r"generation\.temprature.*Did you mean",
    ),
    ({"generation": {"temperature": -1}}, r"generation\.temperature"),
    ({"generation": {"temperature": float("inf")}}, r"generation\.temperature"),
    ({"generation": {"top_p": 0}}, r"generation\.top_p"),
    ({"generation": {"top_k": 1.5}}, r"generation\.top_k"),
    ({"generation": {"max_gen_toks": 0}}, r"generation\.max_gen_toks"),
    ({"generation": {"until": [""]}}, r"generation\.until"),
    ({"generation": {"seed": -1}}, r"generation\.seed"),
    ({"generation": {"do_sample": "perhaps"}}, r"generation\.do_sample"),
    ({"think_end_token": ""}, r"think_end_token"),
    ({"think_end_token": -1}, r"think_end_token"),
]


@pytest.mark.parametrize(("section", "message"), CANNOT_BE, ids=lambda value: str(value)[:50])
def test_an_option_that_cannot_be_is_named(section: dict[str, Any], message: str, tasks_dir: Path) -> None:
    with pytest.raises(ExperimentError, match=message):
        evaluator(tasks_dir, "t_generate", **section)
    with pytest.raises(ExperimentError, match=message):
        evaluator(tasks_dir, {"task": "t_generate", **section})


TOGETHER = [
    ("t_generate", {"top_p": 0.5}, r"t_generate: generation.top_p: has no effect.*Set do_sample"),
    ("t_generate", {"temperature": 0, "top_k": 3}, r"generation.top_k: has no effect"),
    ("t_sampled", {"do_sample": False, "temperature": 0.5}, r"generation.temperature: has no effect"),
    ("t_generate", {"do_sample": True}, r"generation.temperature: must be above 0"),
    ("t_generate", {"do_sample": True, "temperature": 0}, r"generation.temperature: must be above 0"),
    ("t_choice", {"max_gen_toks": 3}, r"t_choice: generation: no answers are generated.*multiple_choice"),
]


@pytest.mark.parametrize(("task", "section", "message"), TOGETHER)
def test_options_that_do_not_go_together_are_named(
    task: str, section: dict[str, Any], message: str, tasks_dir: Path
) -> None:
    with pytest.raises(FitnessError, match=message):
        evaluator(tasks_dir, {"task": task, "generation": section}).describe()


def test_options_of_all_tasks_leave_tasks_alone_that_generate_nothing(tasks_dir: Path) -> None:
    ours = evaluator(tasks_dir, "t_choice", "t_tag", generation={"max_gen_toks": 3}, think_end_token="x")
    assert [info.task for info in ours.describe()] == ["t_choice", "t_tag/t_choice", "t_tag/t_generate"]
    member = {"task": "t_tag", "generation": {"max_gen_toks": 3}}
    assert len(evaluator(tasks_dir, member).describe()) == 2


@pytest.mark.parametrize("kind", ["text", "id"])
def test_thinking_is_cut_as_lm_eval_cuts_it(
    kind: str, tasks_dir: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop texts are looked for in what is left; an answer without the token stays whole."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    more = "generation_kwargs: {until: ['zz'], max_gen_toks: 12}\nmetric_list: [{metric: exact_match}]\n"
    (tmp_path / "think.yaml").write_text(generation("t_think", more), encoding="utf-8")
    (tmp_path / "text.jsonl").write_bytes((tasks_dir / "text.jsonl").read_bytes())
    splits = {"search": 38, "validation": 1, "test": 1}
    whole = answers(evaluator(tmp_path, "t_think", splits=splits), tokenizer)
    letter = whole[0][0][2]
    end = letter if kind == "text" else tokenizer.convert_tokens_to_ids(letter)
    ours = evaluator(tmp_path, {"task": "t_think", "think_end_token": end}, splits=splits)
    cut = answers(ours, tokenizer)
    assert cut == [[text.split(letter)[-1].lstrip() for text in each] for each in whole] != whole
    monkeypatch.chdir(tmp_path)
    lm = HFLM(pretrained=make_model(0), tokenizer=tokenizer, batch_size=8, think_end_token=end)
    loaded = TaskManager(include_path=".", include_defaults=False).load(["t_think"])
    indices = sorted(ours._tasks[0]._splits[Split.SEARCH])
    found = evaluate(lm, loaded, samples={"t_think": indices}, bootstrap_iters=0)
    assert [row["resps"][0] for row in found["samples"]["t_think"]] == cut
    assert any(letter not in text for (text,) in whole)
