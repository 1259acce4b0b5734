"""A search over chat models: asked with the template that is exported; a template that changes is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_support import TURNS
from cli_support import EXPERIMENT
from support import ZOO
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import Experiment, Run, UserError, open_study
from evomerge.backends.transformers_lm import LoadedModel
from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.fitness import Evaluator, ItemSet, Split
from evomerge.recipe import load_recipe
from evomerge.runs.experiment import read_document

NAMES = ("base", "add", "reverse", "sort")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Copies of the zoo whose tokenizers have no chat template yet."""
    monkeypatch.chdir(tmp_path)
    return {name: Path(shutil.copytree(ZOO / name, tmp_path / name)) for name in NAMES}


def make_run(models: dict[str, Path], chat: Any, trials: int = 4, **recipe: Any) -> Run:
    document = json.loads(json.dumps(EXPERIMENT))
    document["models"] = {name: str(folder) for name, folder in models.items()}
    document["recipe"] |= recipe
    document["search"]["trials"] = trials
    document["fitness"] |= {"chat": chat, "splits": {"search": 8, "validation": 4, "test": 4}}
    file = Path("chat.yml")
    file.write_text(yaml.safe_dump(document))
    return Run(Experiment.load(file))


def give_templates(models: dict[str, Path], template: str) -> None:
    for folder in models.values():
        (folder / "chat_template.jinja").write_text(template)


def test_candidates_are_asked_with_the_template_of_the_recipe_which_is_exported(
    models: dict[str, Path], tmp_path: Path
) -> None:
    run = make_run(models, {"system": "Be brief."}, chat_template="chatml")
    told = [text for text in run.prepare() if "chat" in text]
    assert [text.split("will fail")[0] for text in told] == [f"baseline {n!r} " for n in NAMES]
    found = run.search()
    assert found.winner is not None
    with run.study() as opened:
        baselines = {t.name: t for t in opened.study.baselines()}
        scored = opened.study.scored
    assert {name for name, trial in baselines.items() if trial.failed} == set(NAMES)
    assert all("has no chat template" in baselines[n].failure.reason for n in NAMES)  # type: ignore[union-attr]
    assert scored is not None
    assert scored.tasks["zoo_add"].aspects["chat"].endswith("a system text, examples as turns: 'Be brief.'")

    run.export(tmp_path / "best.yml")
    recipe = load_recipe(tmp_path / "best.yml")
    merge_to_disk(recipe, open_sources({r: r for r in recipe.references()}), tmp_path / "best")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "best")
    assert "<|im_start|>" in tokenizer.chat_template
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "best", dtype="float32")
    experiment = run.experiment
    evaluator = Evaluator(experiment.fitness, experiment.path.parent)
    assert evaluator.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)) == found.winner.scores


def test_a_study_refuses_models_whose_chat_template_has_changed(models: dict[str, Path]) -> None:
    give_templates(models, TURNS)
    make_run(models, chat=True).search()
    make_run(models, chat=True, trials=5).search()
    (models["add"] / "chat_template.jinja").write_text(TURNS.replace("'<'", "'['"))
    with pytest.raises(UserError, match=r"zoo_add: chat template: \w{12} -> \w{12}, \w{12}"):
        make_run(models, chat=True, trials=6).search()
    give_templates(models, TURNS)
    make_run(models, chat=True, trials=6).search()
    assert len(open_study("runs/small").study.candidates()) == 6


def test_without_a_template_the_search_does_not_start(models: dict[str, Path]) -> None:
    with pytest.raises(
        UserError, match=r"chat.yml: fitness.tasks: zoo_add: chat.template: .* no chat template"
    ):
        make_run(models, chat=True).search()
    assert not Path("runs").exists()


def test_check_says_how_each_task_is_asked(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from evomerge.cli.main import app

    give_templates(models, TURNS)
    make_run(models, chat=True)
    text = Path("chat.yml").read_text().replace("- zoo_sort", "- {task: zoo_sort, chat: false}")
    Path("chat.yml").write_text(text)
    shown = " ".join(CliRunner().invoke(app, ["check", "chat.yml"]).output.split())
    assert "zoo_add: asked with the model's chat template, examples as turns" in shown
    assert "zoo_sort: asked without chat" in shown
    tasks = json.loads(CliRunner().invoke(app, ["check", "chat.yml", "--json"]).stdout)["tasks"]
    assert [task["chat"] and task["chat"]["template"] for task in tasks] == [True, None]


def test_studies_from_before_there_was_chat_have_none(models: dict[str, Path]) -> None:
    new = make_run(models, chat=None).experiment.document({})
    fields = {"chat", "generation", "think_end_token"}
    of_task = fields | {"description", "gen_prefix", "repeats"}
    before = json.loads(json.dumps(new))
    before["fitness"] = {k: v for k, v in before["fitness"].items() if k not in fields}
    before["fitness"]["tasks"] = [
        {k: v for k, v in task.items() if k not in of_task} for task in before["fitness"]["tasks"]
    ]
    assert before != new == read_document(before)
    assert make_run(models, chat=True).experiment.document({}) != new
