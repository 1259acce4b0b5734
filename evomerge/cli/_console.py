"""Printing for all commands: messages, tables, numbers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from evomerge.fitness.spec import FitnessSpec
    from evomerge.search.leaderboard import Row

__all__ = [
    "command_line",
    "console",
    "interval",
    "leaderboard_table",
    "number",
    "plain_table",
    "print_json",
    "program",
    "say",
    "short",
    "tell",
    "warn",
    "warn_of_trust",
]

# No markup: names and paths of users may hold brackets.
console = Console(highlight=False, soft_wrap=True, markup=False)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def say(text: str) -> None:
    """Print a message: wrapped at words on a terminal, on one line in a log."""
    console.print(text, soft_wrap=not (console.is_terminal or "COLUMNS" in os.environ))


def warn(text: str) -> None:
    """Print a warning on standard error, so that standard output stays readable by programs."""
    _errors.print(Text.assemble(("Warning: ", "yellow"), text), soft_wrap=not _errors.is_terminal)


def warn_of_trust(fitness: FitnessSpec) -> None:
    """Warn if untrusted code may run; called before any model or task is opened."""
    from evomerge.runs.preflight import trust_warning

    warning = trust_warning(fitness)
    if warning is not None:
        warn(warning)


def tell(text: str) -> None:
    """Print a message on standard error, for commands whose output is a document."""
    _errors.print(text)


def program() -> str:
    """How this program was called, for commands that a person may copy, such as ``.venv/bin/evomerge``."""
    called = Path(sys.argv[0])
    found = shutil.which("evomerge")
    if called.name != "evomerge" or (found is not None and Path(found).absolute() == called.absolute()):
        return "evomerge"
    return short(called)


def command_line(without: Sequence[str] = (), more: Sequence[str] = ()) -> str:
    """The command that this process runs, to be copied and run again; without passwords.

    The options ``without`` and their values are left out, ``more`` is added at the end.
    """
    from evomerge.study.storage import redact

    words, rest = [program()], iter(sys.argv[1:])
    for word in rest:
        if word in without:
            next(rest, None)
        elif not word.startswith(tuple(f"{option}=" for option in without)):
            words.append(redact(word))
    return shlex.join([*words, *more])


def short(path: Path) -> str:
    """``path`` relative to the current folder where it is below it, else as it is."""
    whole = path.absolute()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(path)


def plain_table(title: str, columns: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """An empty table in the style of all commands; the columns ``numbers`` are aligned to the right."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.4g}"


def interval(low: float | None, high: float | None) -> str:
    """A confidence interval for a table; a dash where there is none."""
    return "-" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def leaderboard_table(rows: Sequence[Row], title: str) -> Table:
    """Baselines and finalists: search, validation and test score, interval, and the value of each task."""
    from evomerge.report.tables import other_measure

    table = plain_table(title, ())
    table.add_column("model", no_wrap=True)
    measured = other_measure(rows)
    for name in (*([] if measured is None else ["likel."]), "search", "valid.", "test", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    tasks = list(dict.fromkeys(t.task for row in rows for t in row.tasks))
    heads = {task.partition("_")[0] for task in tasks}  # a family's name says nothing in each column
    shared = f"{heads.pop()}_" if len(tasks) > 1 and len(heads) == 1 else ""
    for task in tasks:
        table.add_column(task.removeprefix(shared), justify="right", overflow="fold")
    for i, row in enumerate(rows):
        values = {t.task: t.test if row.test is not None else t.search for t in row.tasks}
        table.add_row(
            f"{row.name} *" if row.winner else row.name,
            *([] if measured is None else [number(row.search)]),
            number(row.search if measured is None else row.search_metric),
            number(row.validation),
            number(row.test),
            interval(row.low, row.high),
            *(number(values.get(task)) for task in tasks),
            style="bold green" if row.winner else None,
            end_section=i + 1 < len(rows) and row.trial.kind != rows[i + 1].trial.kind,
        )
    table.caption = (
        "Scores: weighted mean of the tasks, higher is better.\n"
        "* = the winner, chosen on validation items.\n"
        "Tasks: on test items where a model was scored on them, else on search items."
    )
    if measured is not None:
        table.caption += (
            f"\nlikel.: {measured}, which the search went by, on search items; all else is by the metrics."
        )
    table.caption_justify = "left"
    return table
