"""Sets of items: values that can be compared and stored; a part of a split is scored like the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fitness_support import make_model, value_of
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT, ZOO

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.backends.transformers_model import TransformersModel
from evomerge.engine.sources import open_sources
from evomerge.errors import FitnessError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Scores, Split, TaskScore
from evomerge.recipe import parse_recipe

names = st.text(min_size=1, max_size=4)


def evaluator(folder: Path, *tasks: Any, **settings: Any) -> Evaluator:
    spec = {"tasks": tasks, "include_path": str(folder), "batch_size": 8, **settings}
    return Evaluator(FitnessSpec.model_validate(spec), folder)


def third_of(scores: Scores) -> ItemSet:
    """Every third item of each task, named in another order than they are scored in."""
    return ItemSet.of(scores.split, {t.task: [i.item for i in t.items[::-3]] for t in scores.tasks})


def chosen(task: TaskScore, items: ItemSet) -> list[Any]:
    wanted = items.of_task(task.task) or ()
    return [item for item in task.items if item.item in wanted]


@given(st.dictionaries(names, st.lists(names, min_size=1)), st.sampled_from(Split), st.randoms())
def test_equal_sets_are_equal_values_however_they_are_named(
    only: dict[str, list[str]], split: Split, random: Any
) -> None:
    items = ItemSet.of(split, only)
    shuffled = {task: random.sample(only[task] * 2, 2 * len(only[task])) for task in reversed(list(only))}
    assert ItemSet.of(split, shuffled) == items
    assert hash(ItemSet.of(split, shuffled)) == hash(items)
    assert ItemSet.from_document(json.loads(json.dumps(items.document()))) == items


def test_a_set_of_no_items_or_in_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="no item of task 'a'"):
        ItemSet.of(Split.SEARCH, {"a": []})
    with pytest.raises(ValueError, match="alphabetical"):
        ItemSet(Split.SEARCH, (("a", ("2", "1")),))
    with pytest.raises(ValueError, match="alphabetical"):
        ItemSet(Split.SEARCH, (("b", ("1",)), ("a", ("1",))))


@pytest.fixture(scope="module")
def zoo() -> Iterator[TransformersModel]:
    """A merge of two models of the zoo, which knows some of the answers."""
    experts = [{"model": name, "parameters": {"weight": 0.6}} for name in ("add", "sort")]
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": experts}
    sources = open_sources({name: str(ZOO / name) for name in ("base", "add", "sort")})
    model = TransformersModel(sources)
    model.load(parse_recipe(recipe | {"dtype": "float32"}))
    yield model
    model.close()


def test_a_part_of_a_split_has_the_scores_that_its_items_have_in_the_whole(zoo: TransformersModel) -> None:
    tasks = ("zoo_add", "zoo_reverse", "zoo_sort", "zoo_drift")
    ours = evaluator(ROOT / "fitness" / "zoo", *tasks, limit=90, batch_size=16)
    whole = ours.score(zoo, ItemSet(Split.SEARCH))
    items = third_of(whole)
    part = ours.score(zoo, items)

    assert part.split is whole.split
    assert 0 < whole.tasks[0].value < 1  # some right, some wrong: else any items would agree
    for task, all_ in zip(part.tasks, whole.tasks, strict=True):
        assert len(task.items) == 18
        if task.task == "zoo_drift":  # log-likelihoods, in batches of other lengths
            assert [i.item for i in task.items] == [i.item for i in chosen(all_, items)]
            values = [i.value for i in chosen(all_, items)]
            assert [i.value for i in task.items] == pytest.approx(values, rel=1e-5)
        else:
            assert list(task.items) == chosen(all_, items)
        assert task.value == pytest.approx(value_of(task.items, task.aggregation))
    assert ours.score(zoo, ItemSet(Split.SEARCH)) == whole  # and the whole is as it was


def test_a_task_that_a_set_does_not_name_is_scored_whole(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    asked = LoadedModel(model, tokenizer)
    ours = evaluator(tasks_dir, "t_choice", "t_likelihood")
    whole = ours.score(asked, ItemSet(Split.TEST))
    names = [item.item for item in whole.tasks[0].items[1:3]]
    part = ours.score(asked, ItemSet.of(Split.TEST, {"t_choice": names}))
    assert [item.item for item in part.tasks[0].items] == names
    assert part.tasks[1] == whole.tasks[1]


@pytest.mark.parametrize("task", [{"num_fewshot": 2}, {"num_fewshot": 2, "task": "t_generate"}])
def test_the_examples_before_an_item_do_not_depend_on_the_set(
    task: dict[str, Any], tasks_dir: Path, tokenizer: Any
) -> None:
    spec = {"task": "t_choice", "metric": "acc_norm"} | task
    spec |= {} if spec["task"] == "t_choice" else {"metric": "chrf", "filter": "strict"}
    first, second = evaluator(tasks_dir, spec), evaluator(tasks_dir, spec)
    names = sorted(i.name for i in first._tasks[0]._items(Split.SEARCH))[::4]
    items = ItemSet.of(Split.SEARCH, {spec["task"]: names})
    prompts = {i.name: i.instances[0].args[0] for i in first._tasks[0]._items(Split.SEARCH)}
    second.score(LoadedModel(make_model(0), tokenizer), items)
    asked = second._tasks[0]._chosen(items)
    assert {i.name: i.instances[0].args[0] for i in asked} == {name: prompts[name] for name in names}


def test_items_and_tasks_that_are_not_there_are_errors(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    asked = LoadedModel(model, tokenizer)
    ours = evaluator(tasks_dir, "t_choice")
    other = ours.score(asked, ItemSet(Split.TEST)).tasks[0].items[0].item
    with pytest.raises(FitnessError, match=rf"t_choice: the search split has no item '{other}' \(1 of 1 "):
        ours.score(asked, ItemSet.of(Split.SEARCH, {"t_choice": [other]}))
    with pytest.raises(FitnessError, match=r"no task 't_choise'.*Did you mean 't_choice'"):
        ours.score(asked, ItemSet.of(Split.SEARCH, {"t_choise": [other]}))
