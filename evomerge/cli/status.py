"""evomerge status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli._console import console, leaderboard_table, number, print_json, say
from evomerge.cli._findings import show_findings
from evomerge.cli._gate import FailUnlessBetter, pass_gate

if TYPE_CHECKING:
    from evomerge.runs.opened_study import OpenedStudy
    from evomerge.search.leaderboard import Row
    from evomerge.search.verdict import Verdict
    from evomerge.study.trial import Trial

__all__ = ["command"]


def command(
    study: Annotated[
        str, typer.Argument(help="A run's folder, its name under runs/, or the experiment file.")
    ],
    storage: Annotated[
        str | None, typer.Option(help="URL of the storage; then STUDY is the name of a study in it.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON, with every trial.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the leaderboard alone, as a Markdown table.")
    ] = False,
    fail_unless_better: FailUnlessBetter = None,
) -> None:
    """Show how far a study is, who works on it, its leaderboard, and whether its winner beats the parents."""
    from evomerge.report.tables import leaderboard_markdown, study_document
    from evomerge.runs.opened_study import open_study

    opened = open_study(study, storage)
    rows, verdict = opened.leaderboard(), cache(opened.verdict)
    if json_:
        print_json(study_document(opened.study, rows, verdict(), opened.agreement()))
    elif markdown:
        console.print(leaderboard_markdown(rows), end="")
    else:
        _show(opened, rows, verdict())
    pass_gate(verdict, fail_unless_better)


def _show(opened: OpenedStudy, rows: Sequence[Row], verdict: Verdict | None) -> None:
    from evomerge.report.tables import drift_text, driver_text, search_text

    trials = opened.study.trials()
    candidates = opened.study.candidates()
    say(
        f"{opened.study.name}: {len(candidates)} candidates in {len(opened.study.generations())} "
        f"generations, {len(opened.study.baselines())} baselines",
    )
    say(search_text(opened.search, opened.space.dimensions))
    driver = opened.study.driver()
    if driver is not None:
        say(driver_text(driver))
    for drift in opened.study.accepted_drifts:
        say(drift_text(drift))
    failures = Counter(t.failure.kind.value for t in trials if t.failure is not None)
    if failures:
        say("Failed: " + ", ".join(f"{n} {kind}" for kind, n in sorted(failures.items())))
    _show_work(trials)
    missing, finalists = opened.unvalidated()
    if missing:
        say(f"Not finished: {missing} of {finalists} finalists are still to be validated.")
    if rows:
        console.print(leaderboard_table(rows, "Leaderboard"))
    show_findings(verdict, opened.agreement())


def _show_work(trials: Sequence[Trial]) -> None:
    """What was evaluated, and what did not have to be."""
    cached = sum(1 for t in trials if t.cached_from is not None)
    if cached:
        say(f"Answered from earlier trials with the same recipe: {cached}")
    same = sum(1 for t in trials if t.same_weights_as is not None)
    if same:
        say(f"Equal to a baseline to the bit, so not scored again: {same}")
    scored = [
        t for t in trials if t.cached_from is None and t.same_weights_as is None and t.scores is not None
    ]
    if scored:
        made = median(t.seconds.materialize for t in scored)
        judged = median(t.seconds.evaluate for t in scored)
        say(f"Seconds a candidate (median): {number(made)} to merge, {number(judged)} to evaluate")
