"""evomerge export."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli._console import console, print_json, say, warn
from evomerge.cli._gate import FailUnlessBetter, pass_gate
from evomerge.errors import OutputError

__all__ = ["command"]


def command(
    study: Annotated[
        str, typer.Argument(help="A run's folder, its name under runs/, or the experiment file.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The recipe to write; - for standard output.")
    ],
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the trial; the best by validation score if not given."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="URL of the storage; then STUDY is the name of a study in it.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
    fail_unless_better: FailUnlessBetter = None,
) -> None:
    """Write the recipe of the best trial (or of another one) for evomerge merge."""
    from evomerge.report.verdict_text import verdict_text
    from evomerge.runs.exporting import choose_trial, export_trial
    from evomerge.runs.opened_study import open_study

    to_stdout = output == Path("-")
    if to_stdout and json_:
        raise OutputError("-o", "the recipe and --json cannot both go to standard output", "Name a file.")
    with open_study(study, storage) as opened:
        verdict = cache(opened.verdict)
        pass_gate(verdict, fail_unless_better)
        chosen, warning = choose_trial(opened) if trial is None else (opened.study.trial(trial), None)
        if warning is not None:
            warn(warning)
        exported = export_trial(opened, chosen, None if to_stdout else output)
        found = None if to_stdout or json_ else verdict()
    if to_stdout:
        sys.stdout.write(exported.text)
    elif json_:
        print_json(
            {
                "recipe": str(output),
                "trial": exported.trial,
                "name": exported.name,
                "scores": dict(exported.scores),
                "fingerprint": exported.fingerprint,
                "values": dict(exported.values),
            }
        )
    else:
        console.print(f"Wrote {output}: trial {exported.trial} ({exported.name}), {exported.summary()}")
        if found is not None and found.winner.number == exported.trial:
            for sentence in verdict_text(found)[:1]:
                say(sentence)
