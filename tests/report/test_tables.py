"""The leaderboard for people who paste it somewhere."""

from __future__ import annotations

from evomerge.report.tables import leaderboard_markdown
from evomerge.search.leaderboard import Row, TaskResult
from evomerge.study.study import Trial


def row(name: str, *, winner: bool = False, test: float | None = None) -> Row:
    trial = Trial("candidate", name, 0, 0, "")
    task = TaskResult(
        "zoo_add", "exact_match", higher_is_better=True, search=0.25, validation=None, test=test
    )
    bounds = (None, None) if test is None else (test - 0.1, test + 0.1)
    return Row(trial, winner, 0.5, None, test, *bounds, (task,))


def test_a_leaderboard_in_markdown_has_a_line_for_each_model_and_the_winner_in_bold() -> None:
    lines = leaderboard_markdown([row("base"), row("g0.1", winner=True, test=0.75)]).splitlines()
    assert lines == [
        "| model | search | validation | test | 95 % interval | zoo_add |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| base | 0.500 |  |  |  | 0.250 |",
        "| **g0.1** | **0.500** |  | **0.750** | **0.650 to 0.850** | **0.750** |",
    ]


def test_a_name_with_a_bar_stays_in_its_cell() -> None:
    assert leaderboard_markdown([row("a|b")]).splitlines()[-1].startswith("| a\\|b | 0.500 |")
