"""What every backend promises: the weights of the merge on disk, no trace of what was, scores of lm-eval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, ZOO

from evomerge.backends.registry import BACKENDS, resident_model
from evomerge.backends.resident import ModelSettings, ResidentModel
from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.errors import CandidateError, CheckpointError, RecipeError, UserError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Split
from evomerge.recipe import Recipe, parse_recipe

NAMES = ("base", "add", "reverse", "sort")
SPEC = FitnessSpec.model_validate(
    {
        "tasks": ["zoo_add", "zoo_sort"],
        "include_path": str(ROOT / "fitness" / "zoo"),
        "splits": {"search": 12, "validation": 5, "test": 5},
    }
)


def recipe(method: str, weight: float = 0.4, **more: Any) -> Recipe:
    models = [{"model": n, "parameters": {"weight": weight}} for n in NAMES[1:]]
    base = {} if method == "linear" else {"base_model": "base"}
    return parse_recipe({"merge_method": method, "models": models, **base, "dtype": "bfloat16", **more})


RECIPES = {
    "linear": recipe("linear"),
    "ties": recipe("ties", parameters={"density": 0.5}),
    "dare_ties": recipe("dare_ties", parameters={"density": 0.5}),
    "slices": parse_recipe(
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": "base", "layer_range": [0, 1]}]}] * 2,
            "dtype": "bfloat16",
        }
    ),
}

Make = Callable[..., ResidentModel]


@pytest.fixture(params=BACKENDS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[ResidentModel] = []

    def make(**settings: Any) -> ResidentModel:
        models = tuple((name, str(ZOO / name)) for name in NAMES)
        made.append(
            resident_model(
                request.param, ModelSettings(models, ROOT, device="cpu", dtype="float32", **settings)
            )
        )
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(SPEC, ROOT)


@pytest.mark.parametrize("name", RECIPES)
def test_its_fingerprint_is_that_of_the_merge_on_disk(make: Make, name: str, tmp_path: Path) -> None:
    sources = open_sources({n: str(ZOO / n) for n in NAMES})
    merged = merge_to_disk(RECIPES[name], sources, tmp_path / "out")
    assert make().load(RECIPES[name]) == merged.fingerprint


def test_what_was_loaded_before_leaves_no_trace(make: Make, evaluator: Evaluator) -> None:
    used, items = make(), ItemSet(Split.SEARCH)
    for name in ("dare_ties", "slices", "ties"):
        used.load(RECIPES[name])
    again = used.load(RECIPES["linear"])
    scores = evaluator.score(used, items)
    fresh = make()
    assert fresh.load(RECIPES["linear"]) == again
    assert evaluator.score(fresh, items) == scores


def test_it_scores_as_the_merged_folder_does(make: Make, evaluator: Evaluator, tmp_path: Path) -> None:
    sources = open_sources({n: str(ZOO / n) for n in NAMES})
    merge_to_disk(RECIPES["ties"], sources, tmp_path / "out")
    model = make()
    model.load(RECIPES["ties"])
    settings = ModelSettings((("merged", str(tmp_path / "out")),), ROOT, device="cpu", dtype="float32")
    for backend in BACKENDS:
        merged = resident_model(backend, settings)
        merged.load(parse_recipe({"merge_method": "passthrough", "models": [{"model": "merged"}]}))
        items = ItemSet(Split.VALIDATION)
        assert evaluator.score(merged, items) == evaluator.score(model, items)
        merged.close()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (recipe("ties", parameters={"density": 7}), RecipeError),
        (recipe("task_arithmetic", 1e300), CandidateError),
        (parse_recipe({"merge_method": "passthrough", "models": [{"model": "nobody"}]}), UserError),
    ],
)
def test_after_an_error_the_next_load_is_as_if_there_had_been_none(
    make: Make, wrong: Recipe, error: type[Exception]
) -> None:
    model = make()
    before = model.load(RECIPES["linear"])
    with pytest.raises(error):
        model.load(wrong)
    assert model.load(RECIPES["linear"]) == before


def test_threads_change_no_bit(make: Make) -> None:
    assert make(threads=1).load(RECIPES["dare_ties"]) == make(threads=2).load(RECIPES["dare_ties"])


def test_models_that_do_not_exist_are_a_mistake_of_the_users() -> None:
    for backend in BACKENDS:
        with pytest.raises(CheckpointError, match="nowhere"):
            resident_model(backend, ModelSettings((("a", "/nowhere/at/all"),), ROOT, device="cpu"))


def test_a_backend_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"there is no backend 'transformer'\. Did you mean 'transformers'"):
        resident_model("transformer", ModelSettings((), ROOT))


def test_it_may_be_closed_twice(make: Make) -> None:
    model = make()
    model.load(RECIPES["linear"])
    model.close()
    model.close()
