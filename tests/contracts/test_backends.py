"""What every backend promises: the model that is asked is the merge of the last recipe, and nothing else."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support import ROOT, ZOO
from wide_zoo import wide_zoo

from evomerge.backends.registry import BACKENDS, resident_model
from evomerge.backends.resident import ModelSettings, ResidentModel
from evomerge.backends.transformers_lm import LoadedModel
from evomerge.backends.vllm_settings import vllm_is_installed
from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.errors import CandidateError, CheckpointError, FailureKind, RecipeError, UserError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Scores, Split, TaskSpec
from evomerge.fitness.deadline import Deadline
from evomerge.recipe import Recipe, parse_recipe
from evomerge.workers.jobs import Job
from evomerge.workers.worker import Worker, WorkerSpec

NAMES = ("base", "add", "sort")
SPEC = FitnessSpec.model_validate(
    {
        "tasks": ["zoo_add", "zoo_sort", "zoo_drift"],
        "include_path": str(ROOT / "fitness" / "zoo"),
        "splits": {"search": 12, "validation": 4, "test": 4},
    }
)
ALL = ItemSet(Split.SEARCH)


def merge(method: str, weight: float = 0.6, **more: Any) -> Recipe:
    """Half of each skill."""
    experts = [{"model": name, "parameters": {"weight": weight}} for name in ("add", "sort")]
    document = {"merge_method": method, "models": experts, "dtype": "bfloat16", **more}
    return parse_recipe(document if method == "linear" else document | {"base_model": "base"})


def stack(*layers: tuple[str, int, int]) -> Recipe:
    sources = [{"sources": [{"model": m, "layer_range": [first, end]}]} for m, first, end in layers]
    return parse_recipe({"merge_method": "passthrough", "slices": sources})


def passthrough(model: str) -> Recipe:
    return parse_recipe({"merge_method": "passthrough", "models": [{"model": model}]})


SPARSE = {"density": 0.4}
RECIPES = {
    "linear": merge("linear"),
    "ties": merge("ties", parameters=SPARSE),
    "dare_ties": merge("dare_ties", parameters=SPARSE),
    "deeper": stack(("add", 0, 2), ("sort", 1, 2)),
    "float32": merge("task_arithmetic", dtype="float32"),
}

Make = Callable[..., ResidentModel]


VLLM = pytest.param(
    "vllm",
    marks=[
        pytest.mark.vllm,
        pytest.mark.skipif(not vllm_is_installed(), reason="vLLM is not installed; see scripts/test-vllm"),
    ],
)
ENGINE_ARGS: dict[str, dict[str, Any]] = {
    "vllm": {"enforce_eager": True, "max_num_seqs": 16, "kv_cache_memory_bytes": 2**27}
}


@pytest.fixture(params=[VLLM if name == "vllm" else name for name in BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def zoo(backend: str) -> Path:
    """Models that the backend runs on a CPU."""
    return wide_zoo() if backend == "vllm" else ZOO


@pytest.fixture
def models(zoo: Path) -> dict[str, str]:
    return {name: str(zoo / name) for name in NAMES}


@pytest.fixture(scope="module")
def spare() -> Iterator[dict[Any, ResidentModel]]:
    """Engines of vLLM's, which take seconds to start: a test must not tell a used one from a new one."""
    kept: dict[Any, ResidentModel] = {}
    yield kept
    for model in kept.values():
        model.close()


@pytest.fixture
def make(backend: str, models: dict[str, str], spare: dict[Any, ResidentModel]) -> Iterator[Make]:
    """Makes a resident model over the zoo, or over other models by name."""
    made: list[tuple[Any, ResidentModel]] = []

    def make(dtype: str | None = "float32", threads: int = 1, **more: Path) -> ResidentModel:
        references = {**models, **{name: str(path) for name, path in more.items()}}
        key = (backend, dtype, threads, tuple(references.items()))
        arguments = ENGINE_ARGS.get(backend, {})
        settings = ModelSettings(tuple(references.items()), Path(), "cpu", dtype, threads, arguments)
        model = spare.pop(key) if key in spare else resident_model(backend, settings)
        made.append((key, model))
        return model

    yield make
    for key, model in made:
        if backend == "vllm" and len(key[-1]) == len(NAMES) and key not in spare:
            spare[key] = model
        else:
            model.close()


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(SPEC, ROOT)


@pytest.mark.parametrize("name", RECIPES)
def test_its_fingerprint_and_its_scores_are_those_of_the_merge_on_disk(
    name: str, make: Make, models: dict[str, str], evaluator: Evaluator, tmp_path: Path
) -> None:
    written = merge_to_disk(RECIPES[name], open_sources(models), tmp_path / "out")
    model, exported = make(), make(out=tmp_path / "out")
    assert model.load(RECIPES[name]) == written.fingerprint
    exported.load(passthrough("out"))
    assert evaluator.score(model, ALL) == evaluator.score(exported, ALL)


@pytest.mark.parametrize("name", ["ties", "deeper"])
def test_its_answers_are_those_of_transformers_for_the_merged_folder(
    name: str, make: Make, models: dict[str, str], evaluator: Evaluator, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merge_to_disk(RECIPES[name], open_sources(models), tmp_path / "out")
    model = make()
    model.load(RECIPES[name])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    theirs = evaluator.score(LoadedModel(plain, AutoTokenizer.from_pretrained(tmp_path / "out")), ALL)
    for ours, task in zip(evaluator.score(model, ALL).tasks, theirs.tasks, strict=True):
        values = [item.value for item in task.items]
        assert [item.value for item in ours.items] == pytest.approx(values, rel=1e-3)


def test_without_a_dtype_it_calculates_in_that_of_the_merge(make: Make, evaluator: Evaluator) -> None:
    wide, narrow = make("float32"), make(None)
    assert wide.load(RECIPES["linear"]) == narrow.load(RECIPES["linear"])
    drift = [evaluator.score(model, ALL).tasks[2].value for model in (wide, narrow)]
    assert drift[0] != drift[1]
    assert drift[0] == pytest.approx(drift[1], rel=0.02)


def test_a_recipe_before_leaves_no_trace_not_even_of_another_depth(make: Make, evaluator: Evaluator) -> None:
    def results(model: ResidentModel, *names: str) -> dict[str, tuple[str, Scores]]:
        return {name: (model.load(RECIPES[name]), evaluator.score(model, ALL)) for name in names}

    used = make()
    results(used, *RECIPES)
    again = results(used, *reversed(RECIPES))
    assert len({fingerprint for fingerprint, _ in again.values()}) == len(RECIPES)
    assert {name: results(make(), name)[name] for name in RECIPES} == again


def test_what_was_asked_between_two_recipes_changes_no_answer(make: Make, evaluator: Evaluator) -> None:
    model = make()
    model.load(RECIPES["ties"])
    first = evaluator.score(model, ALL)
    evaluator.score(model, ItemSet(Split.TEST))
    assert evaluator.score(model, ALL) == first
    model.load(RECIPES["linear"])
    assert evaluator.score(model, ALL) != first


def test_the_digest_beside_the_fingerprint_is_of_configuration_and_tokenizer(make: Make) -> None:
    def digest(**changed: object) -> str | None:
        model.load(RECIPES["linear"].model_copy(update=changed))
        return model.config_digest

    model = make()
    plain = digest()
    assert plain is not None
    assert digest(chat_template="chatml") not in (plain, digest(chat_template="llama3"))
    assert digest() == plain
    model.load(RECIPES["ties"])
    assert model.config_digest == plain
    model.load(stack(("add", 0, 3), ("sort", 1, 2)))
    assert model.config_digest != plain


BAD = {
    "a layer that is not there": (stack(("add", 0, 99)), RecipeError),
    "a parameter out of range": (merge("ties", parameters={"density": 7}), RecipeError),
    "weights that overflow": (merge("task_arithmetic", 1e300), CandidateError),
    "a weight that is NaN": (passthrough("broken"), CandidateError),
    "a model that was not opened": (passthrough("nobody"), UserError),
}


@pytest.mark.parametrize("name", BAD)
def test_after_a_recipe_that_fails_the_next_one_is_as_ever(
    name: str, make: Make, zoo: Path, evaluator: Evaluator, tmp_path: Path
) -> None:
    file = shutil.copytree(zoo / "add", tmp_path / "broken") / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    model = make(broken=tmp_path / "broken")
    expected = model.load(RECIPES["ties"]), evaluator.score(model, ALL)

    recipe, error = BAD[name]
    with pytest.raises(error) as caught:
        model.load(recipe)
    if isinstance(caught.value, CandidateError):
        assert caught.value.kind is FailureKind.NON_FINITE_WEIGHTS
    assert (model.load(RECIPES["ties"]), evaluator.score(model, ALL)) == expected


@pytest.mark.parametrize("task", SPEC.tasks, ids=lambda t: t.task)
def test_a_deadline_that_is_past_ends_the_scoring_and_only_that(task: TaskSpec, make: Make) -> None:
    evaluator = Evaluator(SPEC.model_copy(update={"tasks": (task,)}), ROOT)
    model = make()
    model.load(RECIPES["linear"])
    expected = evaluator.score(model, ALL)
    with pytest.raises(CandidateError) as caught:
        evaluator.score(model, ALL, deadline=Deadline.after(0.0))
    assert caught.value.kind is FailureKind.TIMEOUT
    assert evaluator.score(model, ALL, deadline=Deadline.after(1e6)) == expected


def test_its_lm_knows_context_and_tokens(make: Make) -> None:
    model = make()
    model.load(RECIPES["linear"])
    lm = model.lm(4)
    assert lm.max_length == 128
    tokens = lm.tok_encode("12+34=")
    assert len(tokens) >= 6
    assert all(isinstance(token, int) for token in tokens)


def test_a_worker_with_it_gives_what_it_gives_itself(
    backend: str, make: Make, models: dict[str, str], evaluator: Evaluator
) -> None:
    model = make()
    fingerprint = model.load(RECIPES["dare_ties"])
    spec = WorkerSpec(
        tuple(models.items()),
        SPEC,
        ROOT,
        "cpu",
        "float32",
        engine=backend,
        engine_args=ENGINE_ARGS.get(backend, {}),
    )
    worker: Worker = pickle.loads(pickle.dumps(spec))()
    outcome = worker.run(Job("one", RECIPES["dare_ties"], ALL))
    worker.close()
    assert outcome.fingerprint == fingerprint
    assert outcome.scores == evaluator.score(model, ALL)


def test_threads_change_no_bit(make: Make) -> None:
    assert make(threads=1).load(RECIPES["dare_ties"]) == make(threads=2).load(RECIPES["dare_ties"])


def test_models_that_do_not_exist_are_a_mistake_of_the_users(make: Make) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        make(other=Path("/nowhere/at/all"))


def test_it_may_be_closed_twice_and_before_anything_is_loaded(make: Make) -> None:
    unused, used = make(), make()
    used.load(RECIPES["linear"])
    for model in (unused, used, unused, used):
        model.close()


def test_an_unknown_backend_is_an_error_of_the_users() -> None:
    with pytest.raises(UserError, match=r"no backend 'transformer'\. Did you mean 'transformers'"):
        resident_model("transformer", ModelSettings((("base", str(ZOO / "base")),), Path()))
