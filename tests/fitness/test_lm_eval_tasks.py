"""Our way of scoring against lm_eval.evaluate on the same items, to the bit; and the tasks' odd corners."""

from __future__ import annotations

import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitness_support import documents, make_model, make_tokenizer, value_of, write_jsonl

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import CandidateError, FailureKind, FitnessError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Scores, Split, TaskScore
from evomerge.fitness.splits import digest, item_names


def evaluator(tasks_dir: Path, *tasks: Any, **settings: Any) -> Evaluator:
    spec = {"tasks": tasks, "include_path": str(tasks_dir), "batch_size": 8, **settings}
    return Evaluator(FitnessSpec.model_validate(spec), tasks_dir)


def positions(score: TaskScore, folder: Path, file: str) -> list[int]:
    """Where the items of a score lie in the data file, found through their content."""
    rows = [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]
    names = item_names([digest(row) for row in rows])
    return [names.index(item.item) for item in score.items]


def reference(name: str, indices: list[int], model: Any, tokenizer: Any, shots: int | None = None) -> Any:
    """What lm_eval.evaluate says; run it in the folder of the tasks."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    assert indices == sorted(indices)  # lm-eval mislabels others
    loaded = TaskManager(include_path=".", include_defaults=False).load([name])
    task = loaded["tasks"][name]
    task.set_fewshot_seed(seed=1234)
    if shots is not None:
        task.set_config(key="num_fewshot", value=shots)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    return evaluate(lm, loaded, samples={name: indices}, bootstrap_iters=0)


CASES = [
    ("t_choice", "acc", "none", "choice.jsonl"),
    ("t_choice", "acc_norm", "none", "choice.jsonl"),
    ("t_choice", "brier_score", "none", "choice.jsonl"),
    ("t_generate", "exact_match", "first-letter", "text.jsonl"),
    ("t_generate", "chrf", "strict", "text.jsonl"),
    ("t_likelihood", "perplexity", "none", "text.jsonl"),
    ("t_likelihood", "acc", "none", "text.jsonl"),
    ("t_rolling", "word_perplexity", "none", "text.jsonl"),
    ("t_rolling", "byte_perplexity", "none", "text.jsonl"),
    ("t_rolling", "bits_per_byte", "none", "text.jsonl"),
]


@pytest.mark.parametrize(("task", "metric", "filter_", "file"), CASES)
def test_values_and_items_equal_lm_eval_on_the_same_items(
    task: str,
    metric: str,
    filter_: str,
    file: str,
    tasks_dir: Path,
    model: Any,
    tokenizer: Any,
    monkeypatch: Any,
) -> None:
    ours = evaluator(tasks_dir, {"task": task, "metric": metric, "filter": filter_})
    (score,) = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)).tasks
    indices = positions(score, tasks_dir, file)
    monkeypatch.chdir(tasks_dir)
    theirs = reference(task, indices, model, tokenizer)

    assert len(score.items) == 24
    assert len({item.value for item in score.items}) > 1  # some right, some wrong: else all would agree
    assert score.value == theirs["results"][task][f"{metric},{filter_}"]
    assert score.higher_is_better == theirs["higher_is_better"][task][metric]
    rows = [row for row in theirs["samples"][task] if row["filter"] == filter_]
    assert [row["doc_id"] for row in rows] == indices
    for row, item in zip(rows, score.items, strict=True):
        raw = row[metric]
        if metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
            assert (item.value, item.weight) == raw
        elif metric not in ("brier_score", "chrf"):
            assert (item.value, item.weight) == (raw, 1.0)
    if metric != "chrf":
        recomputed = value_of(score.items, score.aggregation)
        assert recomputed == (pytest.approx(score.value) if metric == "brier_score" else score.value)


def test_a_changed_model_is_scored_anew_and_nothing_of_the_one_before_remains(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    names = ("t_choice", "t_generate", "t_likelihood", "t_rolling", "t_custom")
    one = evaluator(tasks_dir, *names, trust_remote_code=True)
    first = one.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    other = make_model(1)
    with torch.no_grad():
        for parameter, new in zip(model.parameters(), other.parameters(), strict=True):
            parameter.copy_(new)
    second = one.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    one.score(LoadedModel(model, tokenizer), ItemSet(Split.TEST))

    assert second != first
    assert second == evaluator(tasks_dir, *names, trust_remote_code=True).score(
        LoadedModel(other, tokenizer), ItemSet(Split.SEARCH)
    )
    assert one.score(LoadedModel(make_model(0), tokenizer), ItemSet(Split.SEARCH)) == first
    assert Scores.from_document(json.loads(json.dumps(first.document()))) == first


def test_few_shot_prompts_equal_lm_evals(
    tasks_dir: Path, model: Any, tokenizer: Any, monkeypatch: Any
) -> None:
    ours = evaluator(tasks_dir, {"task": "t_choice", "metric": "acc_norm", "num_fewshot": 2})
    ours.score(
        LoadedModel(model, tokenizer), ItemSet(Split.TEST)
    )  # draws examples; must not move those of the other split
    (score,) = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)).tasks
    monkeypatch.chdir(tasks_dir)
    theirs = reference("t_choice", positions(score, tasks_dir, "choice.jsonl"), model, tokenizer, shots=2)
    plain = evaluator(tasks_dir, {"task": "t_choice", "metric": "acc_norm"}).score(
        LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)
    )

    (info,) = ours.describe()
    assert info.num_fewshot == 2
    assert score.value == theirs["results"]["t_choice"]["acc_norm,none"]
    assert [item.value for item in score.items] == [row["acc_norm"] for row in theirs["samples"]["t_choice"]]
    assert score != plain.tasks[0]


@pytest.mark.parametrize("metric", ["f1", "mcc"])
def test_metrics_of_whole_sets_equal_lm_eval_and_items_say_right_or_wrong(
    metric: str, tasks_dir: Path, model: Any, tokenizer: Any, monkeypatch: Any
) -> None:
    ours = evaluator(tasks_dir, {"task": "t_binary", "metric": metric}, {"task": "t_binary", "metric": "acc"})
    score, accuracy = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)).tasks
    monkeypatch.chdir(tasks_dir)
    theirs = reference("t_binary", positions(score, tasks_dir, "binary.jsonl"), model, tokenizer)

    assert score.value == theirs["results"]["t_binary"][f"{metric},none"]
    assert score.items == accuracy.items
    assert 0.0 < accuracy.value < 1.0
    with pytest.raises(ValueError, match="does not follow"):
        value_of(score.items, score.aggregation)


def test_bleu_items_hold_their_own_bleu(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    ours = evaluator(tasks_dir, {"task": "t_generate", "metric": "chrf", "filter": "strict"})
    (score,) = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)).tasks

    assert score.aggregation == "chrf"
    assert all(0.0 <= item.value <= 100.0 for item in score.items)
    assert max(item.value for item in score.items) >= score.value > 0.0


def test_a_tasks_own_metrics_work_even_undeclared_ones(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    metrics = ("letters", "some", "undeclared")
    tasks = [{"task": "t_custom", "metric": metric} for metric in metrics]
    ours = evaluator(tasks_dir, *tasks, trust_remote_code=True)
    letters, some, undeclared = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)).tasks

    assert letters.aggregation == "custom:longest"
    assert letters.value == max(item.value for item in letters.items)
    assert some.aggregation == "nanmean"
    assert 0 < sum(item.weight for item in some.items) < len(some.items)
    assert value_of(some.items, "nanmean") == pytest.approx(some.value)
    assert undeclared.aggregation == "mean"
    assert undeclared.value == np.mean([item.value for item in undeclared.items])


def test_a_metric_that_never_comes_out_is_an_error_that_lists_those_that_do(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    ours = evaluator(tasks_dir, {"task": "t_custom", "metric": "never"}, trust_remote_code=True)
    with pytest.raises(FitnessError, match=r"no metric 'never'.*letters, some, undeclared"):
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))


def test_sampled_answers_repeat_and_leave_the_global_stream_alone(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    ours = evaluator(tasks_dir, "t_sampled")
    before = torch.random.get_rng_state()
    first = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)) == first
    (calls,) = {i.repeats for item in ours._tasks[0]._items(Split.SEARCH) for i in item.instances}
    assert calls == 3
    assert all(len(i.resps) == 3 for item in ours._tasks[0]._items(Split.SEARCH) for i in item.instances)


def test_numpy_and_python_random_streams_are_untouched(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    ours = evaluator(tasks_dir, {"task": "t_choice", "num_fewshot": 1}, "t_generate", "t_rolling")
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002 (the stream in question)
    ours.describe()  # lm-eval draws (and drops) names from Python's stream here
    state = random.getstate()
    ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert random.getstate() == state
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002


def test_groups_and_tags_expand_and_spread_their_weight(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    ours = evaluator(tasks_dir, {"task": "t_group", "weight": 3}, {"task": "t_tag", "weight": 1})
    infos = ours.describe()

    assert [(info.task, info.weight) for info in infos] == [
        ("t_group/t_likelihood", 1.5),
        ("t_group/t_rolling", 1.5),
        ("t_tag/t_choice", 0.5),
        ("t_tag/t_generate", 0.5),
    ]
    assert [info.output_type for info in infos] == [
        "loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until",
    ]  # fmt: skip
    assert [task.task for task in ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)).tasks] == [
        i.task for i in infos
    ]


@pytest.mark.parametrize("task", ["t_choice", "t_generate", "t_likelihood", "t_rolling"])
def test_a_model_with_nan_weights_fails_instead_of_guessing(
    task: str, tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    ours = evaluator(tasks_dir, task)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 3] = math.nan
    with pytest.raises(CandidateError, match=rf"{task}.*item [0-9a-f]{{16}}") as caught:
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert caught.value.kind is FailureKind.NON_FINITE_SCORES
    assert ours.score(
        LoadedModel(make_model(0), tokenizer), ItemSet(Split.SEARCH)
    )  # and the next candidate is fine


def test_one_bad_prompt_of_a_batch_is_found_and_named(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    ours = evaluator(tasks_dir, "t_generate", splits={"search": 38, "validation": 1, "test": 1})
    (fine,) = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)).tasks
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("7")] = math.nan
    rows = [json.loads(line) for line in (tasks_dir / "text.jsonl").read_text(encoding="utf-8").splitlines()]
    bad = {digest(row)[:16] for row in rows if "7" in row["text"]}
    assert 0 < len(bad) < 10
    with pytest.raises(CandidateError) as caught:
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert any(name in caught.value.reason for name in bad)
    assert {item.item for item in fine.items} & bad


def test_a_perplexity_beyond_all_floats_fails_the_candidate(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    ours = evaluator(tasks_dir, {"task": "t_likelihood", "metric": "perplexity"})
    with pytest.raises(CandidateError, match="too large") as caught:
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert caught.value.kind is FailureKind.NON_FINITE_SCORES


def test_code_of_a_task_that_fails_on_answers_fails_the_candidate(
    tasks_dir: Path, tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    text = (tasks_dir / "custom.yaml").read_text(encoding="utf-8")
    (tmp_path / "custom.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "custom.py").write_text("def process_results(d, r):\n    return 1 / 0\nlongest = max\n")
    write_jsonl(tmp_path / "text.jsonl", documents("text"))
    with pytest.raises(CandidateError, match="ZeroDivisionError") as caught:
        evaluator(tmp_path, "t_custom", trust_remote_code=True).score(
            LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)
        )
    assert caught.value.kind is FailureKind.EVALUATION


def test_a_tokenizer_without_padding_gives_the_same_scores_and_stays_as_it_was(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    bare = make_tokenizer(bos_token="<s>", eos_token="</s>")
    ours = evaluator(tasks_dir, "t_generate", "t_choice")
    assert ours.score(LoadedModel(model, bare), ItemSet(Split.SEARCH)) == ours.score(
        LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)
    )
    assert bare.pad_token is None
    with pytest.raises(FitnessError, match="end-of-text"):
        ours.score(LoadedModel(model, make_tokenizer(bos_token="<s>")), ItemSet(Split.SEARCH))


def test_answers_are_cut_and_must_fit_into_the_context(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    longest = {}
    for cap in (2, 50):
        ours = evaluator(tasks_dir, {"task": "t_generate", "filter": "strict"}, max_gen_toks=cap)
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
        items = ours._tasks[0]._items(Split.SEARCH)
        longest[cap] = max(len(item.instances[0].resps[0]) for item in items)
    assert longest == {2: 2, 50: 6}  # the task's own limit is 6
    model.config.max_position_embeddings = 6
    with pytest.raises(FitnessError, match=r"6 tokens do not fit.*max_gen_toks"):
        evaluator(tasks_dir, "t_generate").score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))


def test_scoring_is_silent(tasks_dir: Path, model: Any, tokenizer: Any, capfd: Any, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG, logger="other"):
        ours = evaluator(tasks_dir, "t_choice", "t_generate", "t_likelihood", "t_rolling", limit=30)
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("lm_eval")]


def test_tasks_are_found_next_to_their_data_from_any_folder(
    tasks_dir: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluator(tasks_dir, "t_rolling").describe()[0].items[Split.SEARCH] == 24


BAD_TASKS = [
    ("t_choise", r"no task 't_choise'.*'t_choice'"),
    (
        {"task": "t_choice", "metric": "accc"},
        r"no metric 'accc'. Did you mean 'acc'\?.*acc, acc_norm, brier_score",
    ),
    ({"task": "t_generate", "filter": "nope"}, r"no filter 'nope'.*first-letter, strict"),
    ({"task": "t_choice", "transform": "log"}, r"not a perplexity"),
    ({"task": "gsm9k", "metric": "acc"}, r"no task 'gsm9k'.*'gsm8k'"),
]


@pytest.mark.parametrize(("task", "message"), BAD_TASKS, ids=lambda value: str(value)[:30])
def test_mistakes_in_a_task_are_named_with_a_way_out(task: Any, message: str, tasks_dir: Path) -> None:
    with pytest.raises(FitnessError, match=message):
        evaluator(tasks_dir, task).describe()


def test_a_missing_include_path_is_named(tmp_path: Path) -> None:
    spec = FitnessSpec.model_validate({"tasks": ["x"], "include_path": "nowhere"})
    with pytest.raises(FitnessError, match=r"include_path: there is no folder .*nowhere"):
        Evaluator(spec, tmp_path).describe()


def test_missing_and_empty_data_are_named(tasks_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "rolling.yaml").write_text((tasks_dir / "rolling.yaml").read_text(encoding="utf-8"))
    with pytest.raises(FitnessError, match=r"t_rolling: its data is not there.*text.jsonl"):
        evaluator(tmp_path, "t_rolling").describe()
    (tmp_path / "rolling.yaml").write_text(
        "task: t_rolling\ndataset_path: nobody/has-this\ntest_split: test\n"
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: x\n"
    )
    with pytest.raises(FitnessError, match=r"t_rolling: its dataset cannot be.*HF_HUB_OFFLINE"):
        evaluator(tmp_path, "t_rolling").describe()


def test_a_split_nothing_is_left_for_names_task_and_numbers(tasks_dir: Path) -> None:
    with pytest.raises(FitnessError, match=r"t_choice: the splits ask for more than the 40 items.*search 41"):
        evaluator(tasks_dir, "t_choice", splits={"search": 41}).describe()
    with pytest.raises(FitnessError, match=r"t_choice: split 'test' would be empty: the task has 2 items"):
        evaluator(tasks_dir, "t_choice", limit=2).describe()


def test_built_in_tasks_are_found_without_the_whole_index(tmp_path: Path) -> None:
    from evomerge.fitness.lm_eval_index import leaves, task_manager

    manager = task_manager(["gsm8k", "ai2_arc", "mmlu"], [])
    assert len(manager.all_tasks) < 500
    assert leaves(manager, "gsm8k") == ["gsm8k"]
    assert leaves(manager, "ai2_arc") == ["arc_challenge", "arc_easy"]
    assert len(leaves(manager, "mmlu")) == 57
    assert "mmlu_anatomy" in manager.all_subtasks
