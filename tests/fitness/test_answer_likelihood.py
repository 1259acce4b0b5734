"""The log-likelihood of the reference answer, against log-likelihoods that lm-eval's own HFLM gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_support import make_chat_tokenizer, write_chat_tasks
from fitness_support import definition, documents, generation, make_model, write_jsonl
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import FitnessError, UserError
from evomerge.fitness import Evaluator, Fitness, FitnessSpec, ItemSet, Measure, Split, TaskScore
from evomerge.fitness.splits import digest, item_names

Row = Mapping[str, Any]

SHAPES = {
    "first_of_two": generation(
        "first_of_two", "generation_kwargs: {until: ['\\n'], max_gen_toks: 4}\n"
    ).replace('"{{target}}"', "answers"),
    "prefixed": generation("prefixed", "gen_prefix: 'So:'\ngeneration_kwargs: {max_gen_toks: 4}\n"),
    "of_choices": generation(
        "of_choices", "doc_to_choice: ['one', 'two', 'three']\ngeneration_kwargs: {max_gen_toks: 4}\n"
    ).replace('"{{target}}"', "right"),
    "joined": generation("joined", "target_delimiter: ''\ngeneration_kwargs: {max_gen_toks: 4}\n"),
    "two_right": definition(
        "two_right", "multiple_choice", "{{text}}", "both", "doc_to_choice: ['ab', 'cde', 'f']\n"
    ),
    "named_right": definition(
        "named_right", "multiple_choice", "{{text}}", "label", "doc_to_choice: ['ab', 'cde', 'f']\n"
    ),
    "mutual": definition(
        "mutual",
        "multiple_choice",
        "{{text}}",
        "right",
        "doc_to_choice: ['ab', 'cde', 'f']\nmetric_list: [{metric: acc_mutual_info, aggregation: mean}]\n",
    ),
    "two_prompts": definition(
        "two_prompts", "multiple_choice", "", '"{{target}}"', "doc_to_choice: '{{[text, long]}}'\n"
    ).replace('doc_to_text: ""', "doc_to_text: zero"),
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, tasks_dir: Path) -> Path:
    """The folder of the usual tasks, and beside them one of each way to have a reference answer."""
    folder = tmp_path_factory.mktemp("shapes")
    for file in tasks_dir.iterdir():
        if file.suffix == ".jsonl":
            (folder / file.name).write_text(file.read_text())
    for name in ("choice", "binary", "generate", "likelihood", "rolling"):
        (folder / f"{name}.yaml").write_text((tasks_dir / f"{name}.yaml").read_text())
    for name, text in SHAPES.items():
        (folder / f"{name}.yaml").write_text(text)
    write_jsonl(folder / "text.jsonl", [more(n, row) for n, row in enumerate(documents("text"))])
    return folder


def more(n: int, row: dict[str, Any]) -> dict[str, Any]:
    answers = [row["target"] * 2, row["text"][-2:]]
    right = {"right": n % 3, "both": [0, n % 2 + 1], "label": ["ab", "cde", "f"][n % 3], "zero": n % 2}
    return {**row, "answers": answers, **right}


def evaluator(folder: Path, *tasks: Any, **settings: Any) -> Evaluator:
    document = {"tasks": list(tasks), "include_path": str(folder), "batch_size": 8, **settings}
    return Evaluator(FitnessSpec.model_validate(document), folder)


def measured(folder: Path, model: Any, tokenizer: Any, task: str, **fields: Any) -> TaskScore:
    ours = evaluator(folder, {"task": task, "measure": "answer_likelihood", **fields})
    asked = LoadedModel(model, tokenizer)
    return ours.score(asked, ItemSet(Split.SEARCH), Measure.ANSWER_LIKELIHOOD).tasks[0]


def total(values: list[float]) -> float:
    return math.log(math.fsum(math.exp(v) for v in values))


def choose(right: Callable[[Row], list[int]]) -> Callable[[Row, list[float]], float]:
    return lambda row, found: total([found[n] for n in right(row)]) - total(found)


CHOICES = [" ab", " cde", " f"]
EXPECTED: dict[str, tuple[Callable[[Row], list[tuple[str, str]]], Callable[[Row, list[float]], float]]] = {
    "t_choice": (
        lambda row: [(row["question"], f" {choice}") for choice in row["choices"]],
        choose(lambda row: [row["answer"]]),
    ),
    "t_binary": (
        lambda row: [(row["question"], " no"), (row["question"], " yes")],
        choose(lambda row: [row["answer"]]),
    ),
    "t_generate": (lambda row: [(row["text"] + ">", f" {row['target']}")], lambda _, found: found[0]),
    "t_likelihood": (lambda row: [(row["text"], row["target"])], lambda _, found: found[0]),
    "joined": (lambda row: [(row["text"] + ">", row["target"])], lambda _, found: found[0]),
    "prefixed": (lambda row: [(f"{row['text']}> So:", f" {row['target']}")], lambda _, found: found[0]),
    "of_choices": (
        lambda row: [(row["text"] + ">", " " + ["one", "two", "three"][row["right"]])],
        lambda _, found: found[0],
    ),
    "first_of_two": (
        lambda row: [(row["text"] + ">", f" {answer}") for answer in row["answers"]],
        lambda _, found: max(found),
    ),
    "two_right": (lambda row: [(row["text"], c) for c in CHOICES], choose(lambda row: row["both"])),
    "named_right": (lambda row: [(row["text"], c) for c in CHOICES], choose(lambda row: [row["right"]])),
    "mutual": (lambda row: [(row["text"], c) for c in CHOICES], choose(lambda row: [row["right"]])),
    "two_prompts": (
        lambda row: [(row["text"], f" {row['target']}"), (row["long"], f" {row['target']}")],
        choose(lambda row: [row["zero"]]),
    ),
}


@pytest.mark.parametrize("task", EXPECTED)
def test_it_is_what_lm_evals_own_log_likelihoods_give(
    shapes: Path, model: Any, tokenizer: Any, task: str
) -> None:
    import json

    file = {"t_choice": "choice", "t_binary": "binary"}.get(task, "text")
    rows = [json.loads(line) for line in (shapes / f"{file}.jsonl").read_text().splitlines()]
    by_name = dict(zip(item_names(map(digest, rows)), rows, strict=True))
    found = measured(shapes, model, tokenizer, task)
    assert (found.metric, found.aggregation, found.higher_is_better) == ("answer_likelihood", "mean", True)
    assert len(found.items) == 24
    assert found.value == pytest.approx(sum(i.value for i in found.items) / 24)
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    asks, value = EXPECTED[task]
    for item in found.items:
        row = by_name[item.item]
        made = [
            Instance("loglikelihood", {}, pair, n, metadata=("t", n, 1)) for n, pair in enumerate(asks(row))
        ]
        answers = [answer for answer, _ in hflm.loglikelihood(made, disable_tqdm=True)]
        assert item.value == pytest.approx(value(row, answers), abs=1e-5)
        assert item.value < 0
    assert len({item.value for item in found.items}) > 12


def test_few_shot_examples_are_those_of_the_metric(shapes: Path, model: Any, tokenizer: Any) -> None:
    ours = evaluator(shapes, {"task": "t_generate", "measure": "answer_likelihood", "num_fewshot": 2})
    (task,) = ours._tasks
    lm = LoadedModel(model, tokenizer).lm(8)
    chosen = ItemSet(Split.SEARCH)
    by_metric = [r.instance.args[0] for r in task.requests(chosen, Measure.METRIC, lm)]
    by_likelihood = [r.instance.args[0] for r in task.requests(chosen, Measure.ANSWER_LIKELIHOOD, lm)]
    assert by_metric == by_likelihood
    assert all(prompt.count(">") == 3 for prompt in by_metric)


def test_in_a_chat_the_answer_stands_where_the_models_template_lets_it_begin(
    shapes: Path, model: Any, tokenizer: Any
) -> None:
    import copy

    ours = evaluator(shapes, {"task": "t_generate", "measure": "answer_likelihood"}, chat=True)
    (task,) = ours._tasks
    for begin in ("Q:", "U:"):  # another candidate's template makes other prompts
        chatting = copy.deepcopy(tokenizer)
        chatting.chat_template = begin + "{{ messages[0]['content'] }} A:"
        lm = LoadedModel(model, chatting).lm(8)
        asked = task.requests(ItemSet(Split.SEARCH), Measure.ANSWER_LIKELIHOOD, lm)
        prompts = [r.instance.args[0] for r in asked]
        assert all(p.startswith(begin) and p.endswith("> A:") for p in prompts)
        assert {r.instance.args[1] for r in asked} <= set("abcdefgh")


def test_tasks_that_do_not_ask_for_it_and_other_jobs_are_scored_by_their_metric(
    shapes: Path, model: Any, tokenizer: Any
) -> None:
    asked = LoadedModel(model, tokenizer)
    ours = evaluator(shapes, {"task": "t_choice", "measure": "answer_likelihood"}, "t_generate", "t_rolling")
    plain = evaluator(shapes, "t_choice", "t_generate", "t_rolling")
    chosen = ItemSet(Split.SEARCH)
    assert ours.score(asked, chosen) == plain.score(asked, chosen)
    mixed = ours.score(asked, chosen, Measure.ANSWER_LIKELIHOOD)
    assert mixed.tasks[1:] == plain.score(asked, chosen).tasks[1:]
    assert [t.metric for t in mixed.tasks] == ["answer_likelihood", "exact_match", "word_perplexity"]
    assert ours.score(asked, chosen) == plain.score(asked, chosen)  # and not what was measured in between


def test_subsets_keep_the_values_of_their_items(shapes: Path, model: Any, tokenizer: Any) -> None:
    ours = evaluator(shapes, {"task": "t_generate", "measure": "answer_likelihood"})
    asked = LoadedModel(model, tokenizer)
    whole = ours.score(asked, ItemSet(Split.SEARCH), Measure.ANSWER_LIKELIHOOD).tasks[0]
    some = ItemSet.of(Split.SEARCH, {"t_generate": [i.item for i in whole.items[3:9]]})
    part = ours.score(asked, some, Measure.ANSWER_LIKELIHOOD).tasks[0]
    assert part.items == whole.items[3:9]


def test_the_better_model_of_the_answers_has_the_higher_value(shapes: Path, tokenizer: Any) -> None:
    model = make_model(0)
    before = measured(shapes, model, tokenizer, "t_likelihood").value
    with torch.no_grad():
        model.lm_head.weight[[4 + ord(letter) - 32 for letter in "abcdefgh"]] *= 0.01
    flat = measured(shapes, model, tokenizer, "t_likelihood").value
    assert before != flat
    assert flat == pytest.approx(-math.log(100), abs=0.8)


def test_the_score_of_a_mixture_counts_the_likelihood_upwards_whatever_the_metric() -> None:
    tasks = [
        {"task": "a", "metric": "ppl", "direction": "minimize", "measure": "answer_likelihood"},
        {"task": "b", "metric": "ppl", "direction": "minimize"},
    ]
    fitness = Fitness.of(FitnessSpec.model_validate({"tasks": tasks}))
    from evomerge.fitness import ItemScore, Scores

    def score(task: str, metric: str, value: float) -> TaskScore:
        items = (ItemScore("i", value),)
        return TaskScore(task, metric, value, metric != "ppl", "mean", items)

    by_likelihood = Scores(Split.SEARCH, (score("a", "answer_likelihood", -2.0), score("b", "ppl", 3.0)))
    by_metric = Scores(Split.SEARCH, (score("a", "ppl", 5.0), score("b", "ppl", 3.0)))
    assert fitness.score(by_likelihood) == (-2.0 - 3.0) / 2
    assert fitness.score(by_metric) == (-5.0 - 3.0) / 2
    with pytest.raises(FitnessError, match="which is not one of the tasks"):
        fitness.score(Scores(Split.SEARCH, (by_metric.tasks[0], score("b", "answer_likelihood", -1.0))))


def test_what_is_asked_belongs_to_what_a_study_scores(shapes: Path, tmp_path: Path) -> None:
    task = {"task": "joined", "measure": "answer_likelihood"}
    for file in shapes.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    first = evaluator(tmp_path, task).digest()
    plain = evaluator(tmp_path, "joined").digest()
    assert set(first.tasks["joined"].aspects) - set(plain.tasks["joined"].aspects) == {
        "requests for reference answers"
    }
    definition_file = tmp_path / "joined.yaml"
    definition_file.write_text(definition_file.read_text().replace("target_delimiter: ''", ""))
    assert evaluator(tmp_path, "joined").digest().changes(plain) == {}
    (told,) = first.changes(evaluator(tmp_path, task).digest())["joined"]
    assert told.startswith("requests for reference answers: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "its metric is a log-likelihood already"),
        (generation("wrong", "").replace('"{{target}}"', "0"), "doc_to_target is the number 0"),
        (
            generation("wrong", "").replace('"{{target}}"', "\"{{target if zero else ''}}\""),
            r"item \w+ has no reference answer \(doc_to_target gives none\)",
        ),
        (
            definition("wrong", "multiple_choice", "{{text}}", "right", "doc_to_choice: ['a', 'b']\n"),
            r"item \w+ has no reference answer \(ValueError: 2 is not one of 2 choices\)",
        ),
        (
            definition("wrong", "multiple_choice", "{{text}}", "label", "doc_to_choice: ['ab', 'b']\n"),
            r"item \w+ has no reference answer \(ValueError",
        ),
    ],
    ids=["rolling", "number", "some empty", "index", "label"],
)
def test_a_task_without_reference_answers_is_refused_with_the_reason(
    shapes: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    for file in shapes.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    if text is not None:
        (tmp_path / "wrong.yaml").write_text(text)
    name = "t_rolling" if text is None else "wrong"
    ours = evaluator(tmp_path, {"task": name, "measure": "answer_likelihood"})
    with pytest.raises(FitnessError, match=message) as refused:
        ours.describe()
    assert refused.value.where == f"fitness.tasks: {name}: measure"
    assert "Remove 'measure: answer_likelihood'" in refused.value.hint


def test_it_does_not_go_with_a_logarithm_or_twice_with_one_task() -> None:
    from evomerge.recipe import parse

    task = {"task": "a", "measure": "answer_likelihood"}
    for tasks, message in (
        ([{**task, "transform": "log"}], "transform and measure: a log-likelihood is a logarithm already"),
        ([{**task, "metric": "acc"}, {**task, "metric": "f1"}], "answer_likelihood 2 times; once is enough"),
        ([{"task": "a", "measure": "loss"}], "measure"),
    ):
        with pytest.raises(UserError, match=message):
            parse(FitnessSpec, {"tasks": tasks}, FitnessError)


class Asked(LoadedModel):
    """Keeps the log-likelihood requests that it is asked."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.requests: list[tuple[str, str]] = []

    def lm(self, *arguments: Any) -> Any:
        lm = super().lm(*arguments)
        answer = lm.loglikelihood

        def kept(requests: Any, **more: Any) -> Any:
            self.requests += [request.args for request in requests]
            return answer(requests, **more)

        lm.loglikelihood = kept
        return lm


def test_in_a_chat_the_answer_stands_where_the_templates_answer_begins(tmp_path: Path) -> None:
    tasks, tokenizer = write_chat_tasks(tmp_path), make_chat_tokenizer()
    spec = {
        "tasks": [{"task": "t_generate", "measure": "answer_likelihood"}],
        "include_path": str(tasks),
        "chat": {"template": True},
    }
    evaluator = Evaluator(FitnessSpec.model_validate(spec), tmp_path)
    evaluator.digest()  # makes the prompts of every conversation, without a template
    asked = Asked(make_model(0), tokenizer)
    evaluator.score(asked, ItemSet(Split.SEARCH), Measure.ANSWER_LIKELIHOOD)
    targets = {document["target"] for document in documents("text")}
    assert asked.requests
    for prompt, answer in asked.requests:
        assert prompt.startswith("<u>")
        assert prompt.endswith("</s><a>")
        assert answer in targets
