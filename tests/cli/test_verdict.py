"""What a search has shown: the sentences of status, and the exit code for scripts."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli_support import EXPERIMENT
from typer.testing import CliRunner

from evomerge.cli.main import app
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.runs.experiment import Experiment
from evomerge.study.study import SplitResult, Study, Trial

ITEMS = 120
WEIGHTS = ("add.weight", "reverse.weight", "sort.weight")


def scores(split: Split, rate: float) -> Scores:
    """Two tasks of which that share of items is right; models at a higher rate also know what others know."""
    order = random.Random(split.value).sample(range(ITEMS), ITEMS)
    items = tuple(ItemScore(f"i{n}", float(order[n] < rate * ITEMS)) for n in range(ITEMS))
    value = sum(item.value for item in items) / ITEMS
    return Scores(
        split,
        tuple(
            TaskScore(task, "exact_match", value, higher_is_better=True, aggregation="mean", items=items)
            for task in ("zoo_add", "zoo_sort")
        ),
    )


RATES = {"base": 0.2, "add": 0.5, "reverse": 0.45, "sort": 0.4, "uniform": 0.55, "ties": 0.5}


def study(folder: Path, winner: float, search: float | None = None, tested: bool = True) -> list[str]:
    """A finished study whose winner has that rate on test items; arguments for the commands."""
    url = f"sqlite:///{folder}/study.db"
    file = folder / "small.yml"
    file.write_text(json.dumps(EXPERIMENT))
    with Study.open(url, "small", document=Experiment.load(file).document({})) as opened:
        for index, (name, rate) in enumerate(RATES.items()):
            found = scores(Split.SEARCH, rate)
            opened.record(Trial("baseline", name, -1, index, name, values=(rate,), scores=found))
        best = winner if search is None else search
        found, parameters = scores(Split.SEARCH, best), dict.fromkeys(WEIGHTS, 0.5)
        trial = opened.record(
            Trial("candidate", "g0.0", 0, 0, "digest", (0.5,) * 3, parameters, (best,), found)
        )
        opened.record_split(trial.number, Split.VALIDATION, SplitResult(scores(Split.VALIDATION, winner)))
        rates: Mapping[str, float] = {**RATES, "g0.0": winner} if tested else {}
        for each in opened.trials():
            if each.name in rates:
                result = SplitResult(scores(Split.TEST, rates[each.name]))
                opened.record_split(each.number, Split.TEST, result)
    return ["small", "--storage", url]


def said(arguments: list[str]) -> str:
    return " ".join(CliRunner().invoke(app, ["status", *arguments]).stdout.split())


def test_a_winner_that_beats_every_parent_is_said_to_and_passes_the_gate(tmp_path: Path) -> None:
    arguments = study(tmp_path, 0.8, search=0.9)
    text = said(arguments)
    assert "g0.0 is better than the best parent, add: +0.300 (95 % interval +0.2" in text
    assert "p < 0.001), 240 test items." in text
    assert "Against the merge uniform: +0.250" in text
    assert "Its search score is 0.100 above its test score (add: +0.000)." in text
    assert CliRunner().invoke(app, ["status", *arguments, "--fail-unless-better", "0.01"]).exit_code == 0


def test_where_no_merge_is_shown_to_be_better_the_sentence_says_so_and_what_could_be_seen(
    tmp_path: Path,
) -> None:
    arguments = study(tmp_path, 0.505)
    text = said(arguments)
    assert "No merge is shown to be better than the best parent, add: g0.0 differs by +0.00" in text
    assert "So many items can show a difference of 0.0" in text
    shown = json.loads(CliRunner().invoke(app, ["status", *arguments, "--json"]).stdout)["verdict"]
    assert shown["better_than_every_parent"] is False
    assert shown["best_parent"]["name"] == "add"
    assert shown["sentences"][0] in text


def test_a_winner_that_is_worse_is_said_to_be(tmp_path: Path) -> None:
    arguments = study(tmp_path, 0.3)
    assert "g0.0 is worse than the best parent, add: -0.200" in said(arguments)
    assert CliRunner().invoke(app, ["status", *arguments, "--fail-unless-better", "0.5"]).exit_code == 3


@pytest.mark.parametrize("tested", [True, False], ids=["not better", "not tested yet"])
def test_a_gate_that_is_not_passed_is_exit_code_3_and_exports_nothing(tmp_path: Path, tested: bool) -> None:
    arguments = study(tmp_path, 0.505, tested=tested)
    recipe = tmp_path / "best.yml"
    gate = ["--fail-unless-better", "0.05"]
    result = CliRunner().invoke(app, ["export", *arguments, "-o", str(recipe), *gate])
    assert result.exit_code == 3
    assert "Not shown to be better" in result.stderr
    assert not recipe.exists()
    result = CliRunner().invoke(app, ["export", *arguments, "-o", str(recipe)])
    assert result.exit_code == 0, result.output
    assert recipe.exists()


def test_before_the_test_there_is_no_verdict(tmp_path: Path) -> None:
    arguments = study(tmp_path, 0.8, tested=False)
    assert "best parent" not in said(arguments)
    assert json.loads(CliRunner().invoke(app, ["status", *arguments, "--json"]).stdout)["verdict"] is None
