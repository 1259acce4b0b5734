"""Tasks that are Python classes: what they can ask, and what is said of those that are wrong."""

from __future__ import annotations

import random
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitness_support import documents, make_model
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import CandidateError, FailureKind, FitnessError, UserError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Split, TaskScore

Write = Callable[[str], Path]

GOOD = """
    class Letters:
        def items(self):
            return [{"n": n, "text": "ab" * (n % 3) + "c"} for n in range(30)]

        def score(self, lm, items):
            return [value for value, _ in lm.loglikelihood((i["text"], "ab") for i in items)]
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the code of a class ``Letters``."""

    def write_file(code: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(code))
        return path

    return write_file


def evaluator(file: Path, **settings: Any) -> Evaluator:
    task = {"python": f"{file}:Letters", **settings.pop("task", {})}
    document = {"tasks": [task], "batch_size": 8, "splits": {"search": 10, "validation": 10}, **settings}
    return Evaluator(FitnessSpec.model_validate(document), file.parent)


def scored(
    file: Path, model: Any, tokenizer: Any, items: ItemSet | None = None, **settings: Any
) -> TaskScore:
    chosen = items or ItemSet(Split.SEARCH)
    return evaluator(file, **settings).score(LoadedModel(model, tokenizer), chosen).tasks[0]


def score_body(body: str) -> str:
    """``GOOD`` with another ``score``."""
    head = GOOD[: GOOD.index("            return [value")]
    return head + textwrap.indent(textwrap.dedent(body), " " * 12)


def test_what_lm_answers_is_what_lm_eval_answers(write: Write, model: Any, tokenizer: Any) -> None:
    texts = [row["text"] for row in documents("text")][:10]
    file = write(
        score_body(
            f"""
            texts = {texts!r}
            type(self).heard = (
                lm.loglikelihood([(t, "abc") for t in texts]),
                lm.rolling(texts),
                lm.generate(texts, max_tokens=4, stop=["a", "b"]),
                lm.count_tokens("abcd"),
                lm.max_length,
                lm.model,
                lm.generate([], max_tokens=1),
            )
            return [0] * len(items)
            """
        )
    )
    ours = evaluator(file)
    ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    loglikelihoods, rolling, generated, count, length, module, nothing = ours._tasks[0]._object.heard

    hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)

    def theirs(kind: str, *rest: Any) -> Any:
        made = [Instance(kind, {}, (t, *rest), n, metadata=("t", n, 1)) for n, t in enumerate(texts)]
        return getattr(hflm, kind)(made, disable_tqdm=True)

    assert loglikelihoods == theirs("loglikelihood", "abc")
    assert rolling == theirs("loglikelihood_rolling")
    options = {"until": ["a", "b"], "max_gen_toks": 4, "do_sample": False}
    assert generated == theirs("generate_until", options)
    assert len(set(generated)) > 1
    assert (count, length, module, nothing) == (4, 128, model, [])


CHAT = (
    "{% for m in messages %}{{ '<' ~ m['role'] ~ '>' ~ m['content'] }}{% if not loop.last or "
    "add_generation_prompt %}{{ ';' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HEAR = """
    turns = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    type(self).heard = lm.prompt("ab"), lm.prompt(turns), lm.chat(["ab"], max_tokens=4), lm.generate(
        [lm.prompt("ab")], max_tokens=4
    )
    return [0] * len(items)
"""


def test_conversations_are_asked_with_the_models_template_and_system_text(
    write: Write, model: Any, tokenizer: Any
) -> None:
    import copy

    chatting = copy.deepcopy(tokenizer)
    chatting.chat_template = CHAT
    file = write(score_body(HEAR))
    plain, with_system = evaluator(file), evaluator(file, chat={"system": "be a"})
    for ours in (plain, with_system):
        ours.score(LoadedModel(model, chatting), ItemSet(Split.SEARCH))
    question, turns, answer, same = plain._tasks[0]._object.heard
    assert (question, turns) == ("<user>ab;<assistant>", "<user>ab;<assistant>c")
    assert answer == same
    assert with_system._tasks[0]._object.heard[:2] == (
        "<system>be a;<user>ab;<assistant>",
        "<system>be a;<user>ab;<assistant>c",
    )
    (told,) = plain.digest().changes(with_system.digest())["Letters"]
    assert told.startswith("chat: none -> ")
    with pytest.raises(CandidateError, match="the tokenizer has no chat template") as failed:
        evaluator(file).score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert failed.value.kind == FailureKind.EVALUATION


def test_thoughts_are_cut_from_answers(write: Write, model: Any, tokenizer: Any) -> None:
    body = "type(self).heard = lm.generate(['ab', 'cd'], max_tokens=9)\nreturn [0] * len(items)"
    file = write(score_body(body))
    whole, cut = evaluator(file), evaluator(file, think_end_token="a")
    for ours in (whole, cut):
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    heard = whole._tasks[0]._object.heard
    assert any("a" in text for text in heard)
    assert cut._tasks[0]._object.heard == [text.rpartition("a")[2].lstrip() for text in heard]


def test_answers_at_a_temperature_are_drawn_and_are_the_same_each_time(
    write: Write, model: Any, tokenizer: Any
) -> None:
    file = write(
        score_body(
            """
            type(self).heard = lm.generate([i["text"] for i in items], max_tokens=9, temperature=2.0)
            return [0] * len(items)
            """
        )
    )
    drawn = []
    for _ in range(2):
        ours = evaluator(file)
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
        drawn.append(ours._tasks[0]._object.heard)
    greedy = score_body(
        """
        type(self).heard = lm.generate([i["text"] for i in items], max_tokens=9)
        return [0] * len(items)
        """
    )
    ours = evaluator(write(greedy))
    ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert drawn[0] == drawn[1] != ours._tasks[0]._object.heard


def test_the_value_is_the_mean_of_the_items_and_subsets_keep_their_values(
    write: Write, model: Any, tokenizer: Any
) -> None:
    file = write(GOOD)
    whole = scored(file, model, tokenizer)
    assert len(whole.items) == 10
    assert whole.value == pytest.approx(sum(i.value for i in whole.items) / 10)
    assert (whole.metric, whole.aggregation, whole.higher_is_better) == ("score", "mean", True)
    some = ItemSet.of(Split.SEARCH, {"Letters": [i.item for i in whole.items[2:5]]})
    part = scored(file, model, tokenizer, some)
    assert {i.item: i.value for i in part.items} == {i.item: i.value for i in whole.items[2:5]}
    with pytest.raises(FitnessError, match="the search split has no item 'none'"):
        scored(file, model, tokenizer, ItemSet.of(Split.SEARCH, {"Letters": ["none"]}))


def test_items_are_divided_by_content_and_limited_as_those_of_any_task(write: Write) -> None:
    names = {}
    for code in (GOOD, GOOD.replace("range(30)", "reversed(range(30))")):
        digest = evaluator(write(code)).digest().tasks["Letters"]
        names[code] = {split: {i.name for i in items} for split, items in digest.items.items()}
    first, second = names.values()
    assert first == second
    assert [len(n) for n in first.values()] == [10, 10, 6]
    (info,) = evaluator(write(GOOD), limit=27).describe()
    assert list(info.items.values()) == [10, 10, 5]


def test_tasks_of_both_kinds_come_in_the_order_of_the_experiment(write: Write, tasks_dir: Path) -> None:
    file = write(GOOD)
    tasks = [{"python": f"{file}:Letters"}, "t_tag", {"python": f"{file}:Letters", "name": "b"}, "t_rolling"]
    document = {"tasks": tasks, "include_path": str(tasks_dir)}
    names = [t.task for t in Evaluator(FitnessSpec.model_validate(document), tasks_dir).describe()]
    assert names == ["Letters", "t_tag/t_choice", "t_tag/t_generate", "b", "t_rolling"]


def test_name_weight_and_direction_are_those_of_the_experiment(
    write: Write, model: Any, tokenizer: Any
) -> None:
    file = write(GOOD.replace("class Letters:", "class Letters:\n        higher_is_better = False"))
    ours = evaluator(file, task={"name": "mine", "weight": 3})
    (info,) = ours.describe()
    assert (info.task, info.weight, info.higher_is_better) == ("mine", 3, False)
    assert ours.score(LoadedModel(model, tokenizer), ItemSet(Split.TEST)).tasks[0].task == "mine"


def test_code_that_changes_its_documents_changes_nothing_for_the_next_candidate(
    write: Write, model: Any, tokenizer: Any
) -> None:
    file = write(score_body('return [len(i.pop("text")) for i in items]'))
    ours = evaluator(file)
    asked = LoadedModel(model, tokenizer)
    assert ours.score(asked, ItemSet(Split.SEARCH)) == ours.score(asked, ItemSet(Split.SEARCH))


def numpy_state() -> list[int]:
    state: list[int] = np.random.get_state()[1].tolist()  # noqa: NPY002
    return state


def test_random_numbers_are_the_same_for_each_candidate_and_leave_the_callers_alone(
    write: Write, model: Any, tokenizer: Any
) -> None:
    body = "import random, numpy, torch\n"
    body += "return [random.random() + numpy.random.rand() + torch.rand(()) for _ in items]"
    ours = evaluator(write(score_body(body)))
    first = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002 (others draw in between)
    np.random.seed(7)  # noqa: NPY002
    before = random.getstate(), numpy_state(), torch.get_rng_state().tolist()
    assert ours.score(LoadedModel(make_model(1), tokenizer), ItemSet(Split.SEARCH)) == first
    assert len({i.value for i in first.tasks[0].items}) == 10
    assert before == (random.getstate(), numpy_state(), torch.get_rng_state().tolist())


def test_setup_runs_once_before_the_first_score_and_close_once(
    write: Write, model: Any, tokenizer: Any
) -> None:
    file = write(
        score_body("self.log.append('score')\nreturn [0] * len(items)")
        + """
        log = []
        def setup(self):
            self.log.append("setup")
        def close(self):
            self.log.append("close")
            raise OSError("no matter")
    """
    )
    ours = evaluator(file)
    ours.digest()
    ours.close()
    for _ in range(2):
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    ours.close()
    ours.close()
    assert ours._tasks[0]._object.log == ["setup", "score", "score", "close"]


def test_modules_beside_the_file_are_imported_and_count_as_its_code(
    write: Write, tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    helper = tmp_path / "letters_helper.py"
    helper.write_text("VALUE = 1.0  # a note\n")
    file = write(
        "import letters_helper\n" + textwrap.dedent(score_body("return [letters_helper.VALUE] * len(items)"))
    )
    path, modules = list(sys.path), set(sys.modules)
    first = evaluator(file)
    assert scored(file, model, tokenizer).value == 1.0
    assert sys.path == path
    assert {n for n in set(sys.modules) - modules if not n.startswith("evomerge_task_")} == set()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["letters_helper.py", "mine.py"]
    helper.write_text("VALUE = 1.0\n")
    assert first.digest().changes(evaluator(file).digest()) == {}
    helper.write_text("VALUE = 2.0\n")
    assert first.digest().changes(evaluator(file).digest()) == {"Letters": ("the task's code changed",)}
    assert scored(file, model, tokenizer).value == 2.0


def test_the_digest_does_not_depend_on_the_folder_and_sees_code_and_items(
    write: Write, tmp_path: Path
) -> None:
    first = evaluator(write(GOOD)).digest()
    moved = tmp_path / "other" / "mine.py"
    moved.parent.mkdir()
    moved.write_text((tmp_path / "mine.py").read_text() + "# a comment\n")
    assert evaluator(moved).digest() == first
    changes = first.changes(evaluator(write(GOOD.replace('"ab")', '"ac")'))).digest())
    assert changes == {"Letters": ("the task's code changed",)}
    more = first.changes(evaluator(write(GOOD.replace("range(30)", "range(31)"))).digest())
    assert more["Letters"][0] == "1 item added"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Other: pass", r"mine.py has no class 'Letters'. Known: Other"),
        ("Letters = 3", r"has no class 'Letters'"),
        ("class Letters(:", r"mine.py cannot be imported \(mine.py, line 1: SyntaxError"),
        ("\nimport not_there", r"cannot be imported \(mine.py, line 2: ModuleNotFoundError: .*not_there"),
        ("import sys\nsys.exit(3)", r"cannot be imported \(mine.py, line 2: SystemExit: 3"),
        ("class Letters:\n def items(self): return []", r"class Letters of mine.py has no method 'score'"),
        (GOOD.replace("items(self)", "__init__(self, x)") + "\n        items = score", "made without arg"),
        (GOOD.replace("range(30)", "range(0)"), r"mine.py:Letters.items\(\) gives no items"),
        (GOOD.replace("range(30)", "range(1)"), r"split 'validation' would be empty|more than the 1 items"),
        (GOOD.replace("range(30)", "1 / 0"), r"asked for its items \(mine.py, line 4: ZeroDivisionError"),
        (GOOD.replace('{"n": n, ', '["n", n] or {'), r"item 0 of .*items\(\) is not a dict but list"),
        (GOOD.replace('"n": n', '"n": object()'), r"item 0 .* holds more than texts, numbers"),
        (GOOD.replace('"n": n', '"n": n // 2').replace("n % 3", "0"), r"items 0 and 1 of .* are equal"),
        (GOOD + "\n        higher_is_better = 'yes'", "higher_is_better is true or false, not 'yes'"),
    ],
)
def test_a_class_that_is_wrong_is_refused_before_the_search(write: Write, code: str, message: str) -> None:
    with pytest.raises(FitnessError, match=message) as refused:
        evaluator(write(code)).describe()
    assert refused.value.where == "fitness.tasks: Letters"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FitnessError, match=r"there is no file '.*mine\.py'"):
        evaluator(tmp_path / "mine.py").describe()


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("\nraise ValueError('odd')", "evaluation", r"raised \(mine.py, line 8: ValueError: odd\)"),
        ("import sys\nsys.exit()", "evaluation", r"raised \(mine.py, line 8: SystemExit"),
        ("lm.loglikelihood([(1, 'a')])", "evaluation", r"line 7: TypeError: expected a text, got int"),
        ("return [1.0]", "evaluation", "returned 1 values for 10 items"),
        ("return None", "evaluation", "returned NoneType in place of one value for each item"),
        ("return [[]] * len(items)", "evaluation", "for item [0-9a-f]+ returned list, which is not a number"),
        ("return ['1'] * len(items)", "evaluation", "returned str, which is not a number"),
        ("return [float('nan')] * len(items)", "non_finite_scores", "for item [0-9a-f]+ returned nan"),
        ("return [1e400] * len(items)", "non_finite_scores", "returned inf"),
    ],
)
def test_a_score_that_is_wrong_fails_the_candidate(
    write: Write, model: Any, tokenizer: Any, body: str, kind: str, message: str
) -> None:
    with pytest.raises(
        CandidateError, match=rf"task 'Letters': mine.py:Letters.score\(\) .*{message}"
    ) as failed:
        scored(write(score_body(body)), model, tokenizer)
    assert failed.value.kind == FailureKind(kind)


@pytest.mark.parametrize(
    "values", ["numpy.arange(10.0)", "torch.arange(10.0)", "[True] * 10", "iter(numpy.arange(10))"]
)
def test_numbers_of_numpy_and_torch_are_numbers(
    write: Write, model: Any, tokenizer: Any, values: str
) -> None:
    found = scored(write(score_body(f"import numpy, torch\nreturn {values}")), model, tokenizer)
    assert all(type(item.value) is float for item in found.items)
    assert found.value == pytest.approx(1.0 if "True" in values else 4.5)


def test_logits_that_are_not_finite_fail_the_candidate_and_too_long_answers_end_the_search(
    write: Write, model: Any, tokenizer: Any
) -> None:
    file = write(score_body("lm.generate(['ab'], max_tokens=500)\nreturn [0] * len(items)"))
    with pytest.raises(FitnessError, match=r"lm.generate\(max_tokens=500\) does not fit .* of 128 tokens"):
        scored(file, model, tokenizer)
    assert scored(file, model, tokenizer, max_gen_toks=3).value == 0.0
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    for body in ("lm.generate(['ab'])", "lm.loglikelihood([('ab', 'c')])", "lm.rolling(['abc'])"):
        with pytest.raises(CandidateError, match=r"item 0 of 1 in lm\.") as failed:
            scored(write(score_body(f"{body}\nreturn [0] * len(items)")), model, tokenizer, max_gen_toks=9)
        assert failed.value.kind == FailureKind.NON_FINITE_SCORES


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"python": "mine.py"}, r"expected FILE.py:CLASS, got 'mine.py'"),
        ({"python": "mine.py:1a"}, r"expected FILE.py:CLASS"),
        ({"python": "mine.py:A", "task": "b"}, "give either 'task' .* or 'python'"),
        ({"python": "mine.py:A", "name": "a/b"}, "name"),
        ({"python": "mine.py:A", "metric": "acc"}, "metric and python: it belongs to tasks of lm-eval"),
        ({"python": "mine.py:A", "num_fewshot": 2}, "num_fewshot and python"),
        ({"python": "mine.py:A", "chat": True}, "chat and python"),
        ({"python": "mine.py:A", "repeats": 2}, "repeats and python"),
        ({"python": "mine.py:A", "transform": "log"}, "return the logarithm itself"),
        ({"python": "mine.py:A", "measure": "answer_likelihood"}, "measures what its score"),
        ({"task": "b", "name": "c"}, "there is no 'python'"),
    ],
)
def test_fields_that_do_not_go_together_are_named(task: dict[str, Any], message: str) -> None:
    from evomerge.recipe import parse

    with pytest.raises(UserError, match=message):
        parse(FitnessSpec, {"tasks": [task]}, FitnessError)


def test_two_classes_of_one_name_need_names_of_their_own() -> None:
    from evomerge.recipe import parse

    tasks = [{"python": "a.py:A"}, {"python": "b.py:A"}]
    with pytest.raises(UserError, match="task 'A' is given 2 times; give each its own name"):
        parse(FitnessSpec, {"tasks": tasks}, FitnessError)
    spec = parse(FitnessSpec, {"tasks": [tasks[0], {**tasks[1], "name": "B"}]}, FitnessError)
    assert [t.task for t in spec.tasks] == ["A", "B"]
    assert FitnessSpec.model_validate_json(spec.model_dump_json()) == spec
