"""A task definition of a stranger runs nothing, by whatever way it tries; with real lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fitness_support import documents, generation, write_jsonl

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import FitnessError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Split

PLAIN = generation(
    "plain",
    """\
tag: t_both
generation_kwargs: {until: ["\\n"], max_gen_toks: 2}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
)

EVIL = PLAIN.replace("task: plain", "task: evil")
TAGGED = EVIL + "process_results: !function utils.f\n"

ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
HIDDEN = "{% set x = '__cla' ~ 'ss__' %}{{ text[x].mro() }}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Task definitions beside a module that leaves a trace when it is imported."""
    trace = f"open({str(tmp_path / 'owned')!r}, 'w').close()\n"
    (tmp_path / "utils.py").write_text(f"{trace}def f(*a, **k):\n    return {{'exact_match': 1.0}}\n")
    (tmp_path / "metric.py").write_text(trace)
    (tmp_path / "plain.yaml").write_text(PLAIN)
    write_jsonl(tmp_path / "text.jsonl", documents("text"))
    return tmp_path


def evaluator(folder: Path, task: str, **settings: Any) -> Evaluator:
    spec = {"tasks": [task], "include_path": str(folder), **settings}
    return Evaluator(FitnessSpec.model_validate(spec), folder)


WAYS = {
    "function": (TAGGED, r"line 12 names Python code \(!function utils.f\)"),
    "class": ("task: evil\nclass: !function utils.f\n", r"line 2 names Python code"),
    "importable": (EVIL + "doc_to_choice: !function os.system\n", r"!function os.system"),
    "nested": (EVIL + "filter_list: [{name: a, filter: [{filter_fn: !function utils.f}]}]\n", r"line 12"),
    "trust": (
        EVIL + "generation_kwargs: {trust_remote_code: true}\n",
        r"generation_kwargs.trust_remote_code",
    ),
    "generate": (EVIL + "generation_kwargs: {custom_generate: a/b}\n", r"custom_generate .*'a/b'"),
    "script": (EVIL.replace("path: json", "path: ./loader.py"), r"dataset_path is a dataset that runs code"),
    "pickle": (EVIL.replace("path: json", "path: pandas"), r"dataset_path"),
    "metric": (EVIL.replace("metric: exact_match", "metric: ./metric.py"), r"metric_list .*'./metric.py'"),
    "hub metric": (
        EVIL.replace("metric: exact_match", "hf_evaluate: true, metric: exact_match"),
        r"metric_list",
    ),
    "merged": (EVIL + "x: &x {trust_remote_code: yes}\ndataset_kwargs: {<<: *x}\n", r"trust_remote_code"),
}


@pytest.mark.filterwarnings("ignore")  # what lm-eval and datasets say of such tasks, should they get that far
@pytest.mark.parametrize("way", WAYS)
def test_a_definition_that_would_run_code_is_refused_with_file_and_place(folder: Path, way: str) -> None:
    text, said = WAYS[way]
    (folder / "evil.yaml").write_text(text)
    with pytest.raises(FitnessError, match=said) as caught:
        evaluator(folder, "evil").describe()
    assert str(folder / "evil.yaml") in str(caught.value)
    assert "trust_remote_code: true" in str(caught.value)
    assert not (folder / "owned").exists()


INDIRECT = {
    "include": ("evil", {"evil": "include: other.yml\ntask: evil\n", "other.yml": TAGGED}),
    "chain": (
        "evil",
        {"evil": "include: [a.yml]\ntask: evil\n", "a.yml": "include: sub/b.yml\n", "sub/b.yml": TAGGED},
    ),
    "group": ("all", {"all": "group: all\ntask: [plain, evil]\n", "evil": TAGGED}),
    "group of groups": (
        "all",
        {"all": "group: all\ntask: [{group: in, task: [evil]}]\n", "evil": TAGGED},
    ),
    "overriding group": (
        "all",
        {"all": "group: all\ntask: [{task: plain, process_results: !function utils.f}]\n"},
    ),
    "tag": ("t_both", {"evil": TAGGED}),
    "group of a tag": ("all", {"all": "group: all\ntask: [t_both]\n", "evil": TAGGED}),
}


@pytest.mark.parametrize("way", INDIRECT)
def test_so_is_one_that_is_found_through_others(folder: Path, way: str) -> None:
    task, files = INDIRECT[way]
    (folder / "sub").mkdir()
    for name, text in files.items():
        (folder / (name if "." in name else f"{name}.yaml")).write_text(text)
    (folder / "sub" / "utils.py").write_text((folder / "utils.py").read_text())
    with pytest.raises(FitnessError, match="names Python code"):
        evaluator(folder, task).describe()
    assert not (folder / "owned").exists()


def test_a_definition_that_nobody_uses_may_say_what_it_likes(folder: Path) -> None:
    (folder / "evil.yaml").write_text(TAGGED.replace("tag: t_both", ""))
    assert [info.task for info in evaluator(folder, "plain").describe()] == ["plain"]


def test_trusted_code_runs(folder: Path, model: Any, tokenizer: Any) -> None:
    (folder / "evil.yaml").write_text(TAGGED)
    (score,) = (
        evaluator(folder, "evil", trust_remote_code=True)
        .score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
        .tasks
    )
    assert score.value == 1.0
    assert (folder / "owned").exists()


def test_a_task_of_lm_evals_own_may_use_its_functions(folder: Path) -> None:
    from lm_eval.tasks import TaskManager

    from evomerge.fitness.lm_eval_index import task_manager
    from evomerge.fitness.lm_eval_trust import refuse_code

    manager: TaskManager = task_manager(["hellaswag"], [])
    path = manager.task_index["hellaswag"].yaml_path
    assert path is not None
    assert "!function" in path.read_text(encoding="utf-8")
    refuse_code(manager, ["hellaswag"])
    # and one's own variant of it may include it
    (folder / "mine.yaml").write_text(f"include: {path}\ntask: mine\n")
    refuse_code(task_manager(["mine"], [folder]), ["mine"])


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_target", "description"])
@pytest.mark.parametrize("template", [ESCAPE, HIDDEN])
def test_a_template_does_not_get_out_of_its_sandbox(
    folder: Path, field: str, template: str, model: Any, tokenizer: Any
) -> None:
    (folder / "evil.yaml").write_text(EVIL + f'{field}: "{template}"\n')
    with pytest.raises(FitnessError, match=r"SecurityError.* unsafe"):
        evaluator(folder, "evil").score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
