"""Chat: every request and score is that of ``lm_eval.evaluate``; what cannot work is told before a search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from chat_support import NO_SYSTEM, SILENT, SYSTEM, TURNS, make_chat_tokenizer, write_chat_tasks
from fitness_support import make_model

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import CandidateError, ExperimentError, FitnessError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Split
from evomerge.fitness.scored import CHAT_TEMPLATE, ScoredDigest
from evomerge.fitness.splits import digest, item_names
from evomerge.recipe import parse

FILES = {"t_choice": "choice.jsonl", "t_inputs": "choice.jsonl"}
METRICS = {
    "t_choice": "acc_norm",
    "t_inputs": "acc",
    "t_generate": "chrf",
    "t_likelihood": "perplexity",
    "t_rolling": "bits_per_byte",
}


def evaluator(folder: Path, *tasks: Any, **settings: Any) -> Evaluator:
    spec = {"tasks": tasks, "include_path": str(folder), "batch_size": 8, **settings}
    return Evaluator(parse(FitnessSpec, spec, ExperimentError), folder)


def task_of(name: str, **settings: Any) -> dict[str, Any]:
    more = {"filter": "strict"} if name == "t_generate" else {}
    return {"task": name, "metric": METRICS[name], **more, **settings}


def asked(of: Evaluator, split: Split = Split.SEARCH) -> list[list[Any]]:
    """Of each item that was scored last, the arguments of its requests."""
    (task,) = of._tasks
    *_, (_, items) = ((p, i) for p, i in task._items_of.items() if p[0] is split)
    return [[instance.args for instance in item.instances] for item in items]


def reference(
    name: str, folder: Path, items: list[str], tokenizer: Any, shots: int = 0, **chat: Any
) -> tuple[Any, list[list[Any]]]:
    """What ``lm_eval.evaluate`` says of the same items, and what it asked."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    file = folder / FILES.get(name, "text.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    names = item_names([digest(row) for row in rows])
    indices = [names.index(item) for item in items]
    assert indices == sorted(indices)
    loaded = TaskManager(include_path=".", include_defaults=False).load([name])
    task = loaded["tasks"][name]
    task.set_fewshot_seed(seed=1234)
    task.set_config(key="num_fewshot", value=shots)
    lm = HFLM(pretrained=make_model(0), tokenizer=tokenizer, batch_size=8)
    found = evaluate(lm, loaded, samples={name: indices}, bootstrap_iters=0, **chat)
    by_item: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_item.setdefault(instance.doc_id, []).append(instance.args)
    return found, list(by_item.values())


def is_lm_eval(
    ours: Evaluator, name: str, folder: Path, tokenizer: Any, shots: int = 0, **chat: Any
) -> list[list[Any]]:
    """Checks requests, items and value; returns the requests."""
    (score,) = ours.score(LoadedModel(make_model(0), tokenizer), ItemSet(Split.SEARCH)).tasks
    theirs, requests = reference(name, folder, [i.item for i in score.items], tokenizer, shots, **chat)
    assert asked(ours) == requests
    filtered = "strict" if name == "t_generate" else "none"
    metric = METRICS[name]
    assert score.value == theirs["results"][name][f"{metric},{filtered}"]
    rows = [row[metric] for row in theirs["samples"][name] if row["filter"] == filtered]
    if metric == "bits_per_byte":
        assert [(item.value, item.weight) for item in score.items] == rows
    elif metric != "chrf":
        assert [item.value for item in score.items] == rows
    return requests


ASKED = "{{ text if text is defined else question }}"

CHATS: dict[str, dict[str, Any]] = {
    "template": {"template": True},
    "system": {"template": True, "system": SYSTEM},
    "one turn": {"template": True, "system": SYSTEM, "fewshot_as_multiturn": False},
    "no template": {"template": False, "system": SYSTEM},
}


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", METRICS)
def test_requests_and_scores_are_those_of_lm_eval(
    name: str, chat: str, shots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_chat_tasks(tmp_path))
    section, tokenizer = CHATS[chat], make_chat_tokenizer()
    ours = evaluator(tmp_path, task_of(name, num_fewshot=shots), chat=section)
    turns = section["template"] and section.get("fewshot_as_multiturn", True)
    requests = is_lm_eval(
        ours,
        name,
        tmp_path,
        tokenizer,
        shots,
        apply_chat_template=section["template"],
        system_instruction=section.get("system"),
        fewshot_as_multiturn=turns,
    )
    prompt = requests[0][0][0]
    if name != "t_rolling":
        users = 0 if not section["template"] else 1 + shots if turns else 1
        assert prompt.count("<u>") == users
        assert (SYSTEM in prompt) is ("system" in section)


@pytest.mark.parametrize(
    ("changed", "multiturn"),
    [
        ({"gen_prefix": '"So: "'}, True),
        ({"gen_prefix": '"So:"', "target_delimiter": '"\\n"'}, False),
        ({"gen_prefix": f'"{ASKED}:"', "description": "Look."}, True),
        ({"description": f'"Number {ASKED}."', "fewshot_delimiter": '" / "'}, False),
        ({"target_delimiter": '"_"'}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["t_choice", "t_inputs", "t_generate", "t_likelihood"])
def test_beginnings_of_answers_and_delimiters_are_lm_evals_affair(
    name: str, changed: dict[str, str], multiturn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_chat_tasks(tmp_path, **changed))
    ours = evaluator(
        tmp_path, task_of(name, num_fewshot=2), chat={"system": SYSTEM, "fewshot_as_multiturn": multiturn}
    )
    is_lm_eval(
        ours,
        name,
        tmp_path,
        make_chat_tokenizer(),
        2,
        apply_chat_template=True,
        system_instruction=SYSTEM,
        fewshot_as_multiturn=multiturn,
    )


@pytest.mark.parametrize("name", ["t_choice", "t_generate"])
def test_a_template_that_refuses_a_description_is_asked_without_it_as_lm_eval_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_chat_tasks(tmp_path, description="Look."))
    tokenizer = make_chat_tokenizer(NO_SYSTEM)
    ours = evaluator(tmp_path, task_of(name, num_fewshot=2), chat=True)
    told = ours.check_requests(tokenizer, 128)
    requests = is_lm_eval(
        ours, name, tmp_path, tokenizer, 2, apply_chat_template=True, fewshot_as_multiturn=True
    )
    assert "Look" not in requests[0][0][0]
    assert any("description" in text and name in text for text in told)


def test_overrides_of_a_task_make_the_requests_of_a_task_that_is_written_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``gen_prefix`` reaches the examples as well."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "written").mkdir()
    write_chat_tasks(tmp_path / "plain")
    write_chat_tasks(
        tmp_path / "written", gen_prefix='"{{text}}:"', description="Look.", repeats="2", num_fewshot="2"
    )
    settings = {"gen_prefix": "{{text}}:", "description": "Look.", "repeats": 2, "num_fewshot": 2}
    monkeypatch.chdir(tmp_path)
    ours = evaluator(tmp_path / "plain", task_of("t_generate", **settings), chat=True)
    theirs = evaluator(tmp_path / "written", task_of("t_generate"), chat=True)
    model = LoadedModel(make_model(0), make_chat_tokenizer())
    assert ours.score(model, ItemSet(Split.SEARCH)) == theirs.score(model, ItemSet(Split.SEARCH))
    assert asked(ours) == asked(theirs)
    assert asked(ours)[0][0][0].count(":") == 3
    assert ours.digest() == theirs.digest()


# --- which template ---------------------------------------------------------------------------------------


OTHER = TURNS.replace("'<'", "'['")


def prompt_of(tokenizer: Any, folder: Path, general: Any = None, **task: Any) -> str:
    ours = evaluator(folder, task_of("t_generate", **task), chat=general)
    ours.score(LoadedModel(make_model(0), tokenizer), ItemSet(Split.SEARCH))
    return str(asked(ours)[0][0][0])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_tasks(tmp_path_factory.mktemp("chat"))


def test_the_template_is_the_tokenizers_one_of_its_names_a_known_format_or_a_text(tasks: Path) -> None:
    several = make_chat_tokenizer({"default": TURNS, "other": OTHER})
    plain = prompt_of(make_chat_tokenizer(None), tasks)
    turns = prompt_of(make_chat_tokenizer(), tasks, general=True)
    assert turns == f"<u>{plain}</s><a>"
    assert prompt_of(several, tasks, general=True) == turns
    assert prompt_of(several, tasks, general="other") == turns.replace("<u", "[u")
    assert prompt_of(make_chat_tokenizer(), tasks, general={"template": OTHER}) == turns.replace("<u", "[u")
    known = prompt_of(make_chat_tokenizer(None), tasks, general="chatml")
    assert known == f"<|im_start|>user\n{plain}<|im_end|>\n<|im_start|>assistant\n"


def test_what_a_task_says_of_its_chat_wins_field_by_field(tasks: Path) -> None:
    tokenizer = make_chat_tokenizer()
    general = {"system": SYSTEM, "fewshot_as_multiturn": False}
    base = prompt_of(tokenizer, tasks, general, num_fewshot=1)
    assert base.startswith(f"<s>{SYSTEM}</s><u>")
    assert base.count("<u>") == 1
    own = prompt_of(tokenizer, tasks, general, num_fewshot=1, chat={"fewshot_as_multiturn": True})
    assert own.startswith(f"<s>{SYSTEM}</s><u>")
    assert own.count("<u>") == 2
    assert prompt_of(tokenizer, tasks, general, chat={"system": ""}).startswith("<u>")
    off = prompt_of(tokenizer, tasks, general, chat=False)
    assert off == prompt_of(tokenizer, tasks)
    assert prompt_of(tokenizer, tasks, chat=True) == prompt_of(tokenizer, tasks, general=True)


def test_each_tokenizer_has_its_own_prompts_and_one_that_comes_back_the_same(tasks: Path) -> None:
    ours = evaluator(tasks, task_of("t_generate"), chat=True)
    model, prompts = make_model(0), []
    for template in (TURNS, OTHER, TURNS):
        ours.score(LoadedModel(model, make_chat_tokenizer(template)), ItemSet(Split.SEARCH))
        (task,) = ours._tasks
        place = next(p for p in task._items_of if p[1] and p[1][0] == template)
        prompts.append(task._items_of[place][0].instances[0].args[0])
    assert prompts[0] == prompts[2] != prompts[1]
    assert len(ours._tasks[0]._items_of) == 2


def test_a_template_that_asks_for_the_date_gives_the_same_prompt_every_day(tasks: Path) -> None:
    dated = (
        "{{- strftime_now('%d %b %Y') + ' ' + strftime_now('%Y-%m-%d') }}\n  {% if true %}|{% endif %}"
        + TURNS
    )
    prompt = prompt_of(make_chat_tokenizer(dated), tasks, general=True)
    assert prompt.startswith("26 Jul 2024 2024-07-26\n|<u>")


# --- what cannot work -------------------------------------------------------------------------------------


RAISING = TURNS.replace("{{ '<'", "{%- if '7' in message['content'] -%}{{ 1 // 0 }}{%- endif -%}{{ '<'")

BAD: list[tuple[Any, Any, str]] = [
    (None, True, r"t_generate: chat.template: the tokenizer has no chat template. Set chat_template in"),
    ({"a": TURNS, "b": TURNS}, True, r"several chat templates, .* default. Name one of them: a, b"),
    (TURNS, "chatmll", r"no chat template 'chatmll'. Did you mean 'chatml'\? Of the tokenizer: none; well-"),
    ({"default": TURNS, "rag": TURNS}, "rga", r"no chat template 'rga'. Did you mean 'rag'\? .*: default"),
    (NO_SYSTEM, {"system": SYSTEM}, r"t_generate: chat.system: the chat template has no system role"),
    (SILENT, {"system": SYSTEM}, r"chat.system: the chat template has no system role"),
    (RAISING, True, r"the chat template fails on item [0-9a-f]{16} \(ZeroDivisionError: .*"),
    (TURNS, {"template": "{{ messages[0].content.__class__.__mro__ }}"}, r"fails on item .*Security"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "chat", "message"), BAD, ids=lambda value: str(value)[:20])
def test_a_template_that_cannot_work_is_told_before_a_search_and_fails_a_candidate(
    template: Any, chat: Any, message: str, tasks: Path
) -> None:
    tokenizer = make_chat_tokenizer(template)
    with pytest.raises(FitnessError, match=message):
        evaluator(tasks, task_of("t_generate"), chat=chat).check_requests(tokenizer, 128)
    ours = evaluator(tasks, task_of("t_generate"), chat=chat)
    with pytest.raises(CandidateError, match=message):
        ours.score(LoadedModel(make_model(0), tokenizer), ItemSet(Split.SEARCH))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"template": "{% for m in messages %}"}, r"chat\.template.*is not a Jinja template"),
        ({"template": " "}, r"chat\.template.*is empty"),
        ({"template": False, "fewshot_as_multiturn": True}, r"needs a chat template"),
        ({"sytem": "x"}, r"chat\.sytem.*Did you mean 'system'"),
        ({"template": 3}, r"chat\.template"),
    ],
)
def test_a_section_that_cannot_be_names_the_field(section: Any, message: str, tasks: Path) -> None:
    with pytest.raises(ExperimentError, match=message):
        evaluator(tasks, "t_generate", chat=section)
    with pytest.raises(ExperimentError, match=message):
        evaluator(tasks, {"task": "t_generate", "chat": section})


def test_templates_cannot_leave_the_sandbox(tasks: Path, tmp_path: Path) -> None:
    target = tmp_path / "written"
    for attack in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        f"{{{{ cycler.__init__.__globals__.os.system('touch {target}') }}}}",
        f"{{{{ lipsum.__globals__['os'].system('touch {target}') }}}}",
    ):
        for chat, template in ((True, attack), ({"template": attack}, TURNS)):
            with pytest.raises(FitnessError, match="fails on item"):
                evaluator(tasks, "t_generate", chat=chat).check_requests(make_chat_tokenizer(template), 128)
    assert not target.exists()


def test_an_answer_longer_than_the_context_is_told_with_its_length(tasks: Path) -> None:
    ours = evaluator(tasks, "t_generate", chat=True, generation={"max_gen_toks": 128})
    with pytest.raises(FitnessError, match=r"t_generate: answers of 128 tokens do not fit .* context of 128"):
        ours.check_requests(make_chat_tokenizer(), 128)


def test_a_model_with_a_template_that_is_not_used_is_told_once(tasks: Path) -> None:
    def told(template: Any, **chat: Any) -> tuple[str, ...]:
        ours = evaluator(tasks, "t_generate", "t_choice", **chat)
        return ours.check_requests(make_chat_tokenizer(template), 128)

    (text,) = told(TURNS)
    assert "asked without it" in text
    assert told(None) == told(TURNS, chat=True) == told(TURNS, chat=False) == ()
    assert all("exported" in text for text in told(TURNS, chat={"template": OTHER}))


# --- what a study scored ----------------------------------------------------------------------------------


def changes(before: ScoredDigest, now: ScoredDigest) -> str:
    kept = ScoredDigest.from_document(json.loads(json.dumps(before.document())))
    return "; ".join(text for texts in kept.changes(now).values() for text in texts)


def test_a_study_notices_another_template_system_text_or_option(tasks: Path) -> None:
    def scored(template: str = TURNS, chat: Any = True, **settings: Any) -> ScoredDigest:
        ours = evaluator(tasks, task_of("t_generate", **settings), chat=chat)
        return ours.digest([make_chat_tokenizer(template)])

    first = scored()
    assert changes(first, scored()) == ""
    assert changes(first, scored(OTHER)).startswith("chat template: ")
    assert "chat: the model's chat template, examples as turns ->" in changes(
        first, scored(chat={"system": SYSTEM})
    )
    assert "24 items with another prompt" not in changes(first, scored(OTHER))
    assert "40 items with another prompt" in changes(first, scored(chat={"system": SYSTEM}))
    assert "chat: the model's" in changes(first, scored(chat=None))
    assert "items with another prompt" in changes(first, scored(gen_prefix="So"))
    assert "generation options" in changes(first, scored(think_end_token="</t>"))
    assert "generation options" in changes(first, scored(generation={"max_gen_toks": 3}))
    assert "repeats: 1 -> 2" in changes(first, scored(repeats=2))


def test_a_worker_without_a_tokenizer_compares_all_but_the_template(tasks: Path) -> None:
    def by_task(chat: Any, *tokenizers: Any) -> Mapping[str, str]:
        return evaluator(tasks, task_of("t_generate"), chat=chat).digest(tokenizers).by_task()

    driver = evaluator(tasks, task_of("t_generate"), chat=True).digest([make_chat_tokenizer()])
    assert CHAT_TEMPLATE in driver.tasks["t_generate"].aspects
    assert by_task("chatml") != driver.by_task()
    assert by_task({}) == driver.by_task() == by_task({}, make_chat_tokenizer(OTHER))
    assert by_task({"system": SYSTEM}) != driver.by_task()
    assert by_task(None) != driver.by_task()
    without = evaluator(tasks, task_of("t_generate")).digest([make_chat_tokenizer()])
    assert not {"chat", CHAT_TEMPLATE} & set(without.tasks["t_generate"].aspects)
