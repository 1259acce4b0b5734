"""The experiment file: what it accepts, and that its documentation is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT, changed
from pydantic import BaseModel
from support import ROOT, ZOO

from evomerge.errors import ExperimentError, UserError
from evomerge.fitness.chat_spec import ChatSpec
from evomerge.fitness.generation_spec import GenerationSpec
from evomerge.fitness.spec import FitnessSpec, SplitSpec, TaskSpec
from evomerge.runs.experiment import (
    Experiment,
    ExperimentSpec,
    OutputSpec,
    SearchSpec,
    WorkersSpec,
    read_document,
    read_settings,
)
from evomerge.study.manifest import Manifest


def load(document: dict[str, Any], folder: Path, overrides: dict[str, Any] | None = None) -> Experiment:
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump(document))
    return Experiment.load(path, overrides)


@pytest.mark.parametrize(
    "schema",
    [
        *(ExperimentSpec, SearchSpec, WorkersSpec, OutputSpec),
        *(FitnessSpec, TaskSpec, SplitSpec, ChatSpec, GenerationSpec),
    ],
)
def test_every_field_is_documented(schema: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "experiment.md").read_text()
    assert [name for name in schema.model_fields if f"`{name}`" not in text] == []


def test_a_lag_belongs_to_the_experiment_and_a_study_from_before_there_was_one_has_none(
    tmp_path: Path,
) -> None:
    without = load(EXPERIMENT, tmp_path).document({})
    assert load(EXPERIMENT, tmp_path, {"search.lag": 0}).document({}) == without
    assert load(EXPERIMENT, tmp_path, {"search.lag": 5}).document({})["search"]["lag"] == 5
    before = {**without, "search": {k: v for k, v in without["search"].items() if k != "lag"}}
    assert read_document(before) == without
    for wrong in (-1, 1.5, "two", 10_001):
        with pytest.raises(ExperimentError, match=r"search\.lag"):
            load(EXPERIMENT, tmp_path, {"search.lag": wrong})


def test_a_study_goes_on_with_the_engine_that_it_began_with(tmp_path: Path) -> None:
    mine = load(EXPERIMENT, tmp_path)
    begun = mine.document({})
    before_the_field = {**begun, "workers": {"dtype": begun["workers"]["dtype"]}}
    assert mine.engine == mine.of_study(None).engine == mine.of_study(begun).engine == "transformers"
    assert mine.of_study(before_the_field).engine == "lm_eval"
    assert mine.of_study(before_the_field).document({}) == read_document(before_the_field)
    given = load(EXPERIMENT, tmp_path, {"workers.engine": "transformers"}).of_study(before_the_field)
    fields = Manifest.of(before_the_field).differences(given.document({}), (), read_document)
    assert [d.field for d in fields] == ["workers.engine"]


def test_a_study_goes_on_with_the_batch_size_that_it_began_with(tmp_path: Path) -> None:
    fitness = {key: value for key, value in EXPERIMENT["fitness"].items() if key != "batch_size"}
    mine = load({**EXPERIMENT, "fitness": fitness}, tmp_path)
    begun = mine.document({})
    assert begun["fitness"]["batch_size"] == "auto"
    sixteen = {**begun, "fitness": {**begun["fitness"], "batch_size": 16}}
    assert mine.of_study(sixteen).document({}) == sixteen
    given = load(EXPERIMENT, tmp_path, {"fitness.batch_size": "auto"}).of_study(sixteen)
    assert [d.field for d in Manifest.of(sixteen).differences(given.document({}), (), read_document)] == [
        "fitness.batch_size"
    ]


def test_a_study_of_a_later_release_is_shown_and_is_another_experiment(tmp_path: Path) -> None:
    mine = load(EXPERIMENT, tmp_path)
    now = mine.document({})
    later = {**now, "search": {**now["search"], "warp": 9}, "fitness": {**now["fitness"], "warp": 9}}
    assert read_settings(later) == (mine.spec.fitness, mine.spec.search)
    assert [d.field for d in Manifest.of(later).differences(now, (), read_document)] == [
        "fitness.warp",
        "search.warp",
    ]


def test_fields_inside_lists_are_read_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.runs.experiment.AS_IT_WAS", {"fitness.tasks[].shade": "grey"})
    stored = {"fitness": {"tasks": [{"task": "a"}, {"task": "b", "shade": "red"}]}}
    read = read_document(stored)["fitness"]["tasks"]
    assert [task["shade"] for task in read] == ["grey", "red"]
    assert "shade" not in stored["fitness"]["tasks"][0]


def test_a_star_is_every_named_model_but_the_base(tmp_path: Path) -> None:
    experiment = load(EXPERIMENT, tmp_path)
    assert [d.name for d in experiment.space.dimensions] == ["add.weight", "reverse.weight", "sort.weight"]
    assert experiment.references == {n: str((ZOO / n).resolve()) for n in ("base", "add", "reverse", "sort")}


def test_a_star_without_named_models_is_an_error(tmp_path: Path) -> None:
    document = changed("models", {}) | {"name": "x"}
    with pytest.raises(ExperimentError, match="no models are named"):
        load(document, tmp_path)


def test_models_are_looked_up_from_the_current_folder_then_from_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "m").mkdir(parents=True)
    document = changed("models.add", "m")
    monkeypatch.chdir(tmp_path / "here")
    assert load(document, tmp_path / "there").references["add"] == str(tmp_path / "here" / "m")
    monkeypatch.chdir(tmp_path)
    assert load(document, tmp_path / "there").references["add"] == str(tmp_path / "there" / "m")


def test_a_hub_id_is_not_looked_up_before_a_search_or_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr("evomerge.checkpoints.references._download", no_network)
    experiment = load(changed("models.add", "org/expert@v2"), tmp_path)
    assert experiment.references["add"] == "org/expert@v2"


def test_a_folder_with_a_revision_or_an_adapter_is_found(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    experiment = load(changed("models.add", f"{ZOO / 'add'}+adapter"), tmp_path)
    assert experiment.references["add"] == f"{(ZOO / 'add').resolve()}+{tmp_path / 'adapter'}"


def test_an_adapter_over_a_stage_is_found_and_exported_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    half = {"name": "half", "merge_method": "linear", "parameters": {"weight": 1}}
    half["models"] = [{"model": "add"}, {"model": "sort"}]
    tuned = {"model": "half+adapter", "parameters": {"weight": {"float": [0, 1]}}}
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "stages": [half], "models": [tuned]}
    document = changed("recipe", recipe)
    document["models"] = {name: str(ZOO / name) for name in ("base", "add", "sort")}
    experiment = load(document, tmp_path)
    assert experiment.references["+adapter"] == f"+{tmp_path / 'adapter'}"
    filled = experiment.space.fill(experiment.space.decode(experiment.space.start()))
    exported = filled.with_references(experiment.references)
    assert exported.models is not None
    assert exported.models[0].model == f"half+{tmp_path / 'adapter'}"
    assert f"+{tmp_path / 'adapter'}" in exported.references()
    assert not any("+" in r for b in experiment.baselines() for r in b.recipe.references())


def test_a_model_that_the_recipe_leaves_out_is_told(tmp_path: Path) -> None:
    document = changed("recipe.models", [{"model": "add", "parameters": {"weight": {"float": [0, 1]}}}])
    assert load(document, tmp_path).unused == ("reverse", "sort")
    assert load(EXPERIMENT, tmp_path).unused == ()


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    experiment = load(
        EXPERIMENT, tmp_path, {"search.trials": 3, "output.dir": str(tmp_path / "o"), "name": "n"}
    )
    assert experiment.spec.search.trials == 3
    assert experiment.folder == tmp_path / "o"
    assert experiment.storage == f"sqlite:///{tmp_path / 'o' / 'study.db'}"
    assert experiment.name == "n"


def test_the_name_is_that_of_the_file(tmp_path: Path) -> None:
    assert load(changed("name", None), tmp_path).name == "mine"


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="name"):
        load(changed("name", "../../etc"), tmp_path)


def test_a_space_is_found_by_name_beside_the_file_first(tmp_path: Path) -> None:
    document = changed("recipe", None) | {"space": "ties"}
    assert len(load(document, tmp_path).space.dimensions) == 7
    (tmp_path / "ties.yml").write_text(yaml.safe_dump(EXPERIMENT["recipe"]))
    assert len(load(document, tmp_path).space.dimensions) == 3


def test_an_unknown_space_suggests_a_ready_made_one(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="Did you mean 'ties'"):
        load(changed("recipe", None) | {"space": "tiess"}, tmp_path)


def test_recipe_and_space_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="exactly one of 'recipe'"):
        load(EXPERIMENT | {"space": "ties"}, tmp_path)


def test_an_exported_recipe_names_folders(tmp_path: Path) -> None:
    experiment = load(EXPERIMENT, tmp_path)
    recipe = experiment.space.fill(experiment.space.decode(experiment.space.start())).with_references(
        experiment.references
    )
    assert recipe.base_model == str((ZOO / "base").resolve())
    assert [s.model for s in recipe.models or ()] == [
        str((ZOO / n).resolve()) for n in ("add", "reverse", "sort")
    ]


def test_the_studys_document_sees_what_decides_and_nothing_else(tmp_path: Path) -> None:
    plain = load(EXPERIMENT, tmp_path).document({})
    assert load(changed("workers", {"dtype": "float32", "threads": 4}), tmp_path).document({}) == plain
    assert load(changed("workers.dtype", "bfloat16"), tmp_path).document({}) != plain
    assert load(changed("search.sigma", 0.4), tmp_path).document({}) != plain
    assert load(EXPERIMENT, tmp_path).document({"add": "other weights"}) != plain


def test_stars_within_stars_do_not_explode(tmp_path: Path) -> None:
    document = changed("models", {f"m{i}": str(ZOO / "add") for i in range(60)})
    entry: dict[str, Any] = {"model": "*", "parameters": {"weight": 1}}
    for _ in range(4):
        entry = {"model": "*", "parameters": {"weight": [entry]}}
    document["recipe"] = {"merge_method": "linear", "models": [entry]}
    with pytest.raises(ExperimentError, match="makes more than"):
        load(document, tmp_path)


@pytest.mark.parametrize("text", ["a/b/" + "c" * 300, "~nobody-of-this-name/x"])
@pytest.mark.parametrize("place", ["space", "models.add", "fitness.include_path"])
def test_a_name_that_no_file_system_takes_is_one_message(place: str, text: str, tmp_path: Path) -> None:
    document = changed(place, text) if place != "space" else {**changed("recipe", None), "space": text}
    with pytest.raises(UserError):
        load(document, tmp_path)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("place", ["workers.gpus_per_worker", "workers.timeout", "search.sigma"])
def test_settings_are_finite(place: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=place.split(".")[1]):
        load({**changed("search.sigma", 0.2), "workers": {}}, tmp_path, {place: value})


def test_numbers_of_an_experiment_are_read_in_every_spelling(tmp_path: Path) -> None:
    search = {"trials": "1e2", "population": "8.0", "sigma": "1e-1", "seed": 3.0}
    read = load(changed("search", search), tmp_path)
    plain = {"trials": 100, "population": 8, "sigma": 0.1, "seed": 3}
    assert read.spec == load(changed("search", plain), tmp_path).spec
    splits = load(changed("fitness.splits", {"search": "0.5", "validation": "1e1", "test": 10}), tmp_path)
    assert splits.fitness.splits == SplitSpec(search=0.5, validation=10, test=10)
    with pytest.raises(ExperimentError, match=r"search\.trials"):
        load(changed("search", {"trials": "1.5"}), tmp_path)


def test_what_an_experiment_file_ignores_is_a_warning_and_does_not_change_the_study(tmp_path: Path) -> None:
    plain = load(EXPERIMENT, tmp_path)
    path = tmp_path / "mine.yml"
    path.write_text(
        "bounds: &bounds [0, 1]\nx-team: ours\ndescription: mine\n"
        + path.read_text().replace("recipe:\n", "recipe:\n  tuned: &tuned 1\n  x-note: 1\n")
    )
    experiment = Experiment.load(path)
    assert experiment.document({}) == plain.document({})
    assert [w.split(" has")[0] for w in experiment.warnings] == [
        "bounds",
        "x-team",
        "description",
        "recipe: tuned",
        "recipe: x-note",
    ]
    path.write_text(path.read_text() + "serch: {trials: 5}\n")
    with pytest.raises(ExperimentError, match="Did you mean 'search'"):
        Experiment.load(path)
