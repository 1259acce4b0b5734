"""``--fail-unless-better``: an exit code for scripts where nothing was shown to beat the best parent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli._console import tell

if TYPE_CHECKING:
    from evomerge.search.verdict import Verdict

__all__ = ["NOT_BETTER", "FailUnlessBetter", "pass_gate"]

NOT_BETTER = 3
"""The exit code where the winner is not shown to be better than every parent."""

FailUnlessBetter = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="P",
        help="Exit with code 3 unless the winner is better than every parent on test items, at this level of "
        "significance (0.05, say).",
    ),
]


def pass_gate(find_verdict: Callable[[], Verdict | None], level: float | None) -> None:
    """Nothing, if no ``level`` is asked for or the winner is better at that level.

    Raises:
        typer.Exit: It is not; a line on standard error says so.
    """
    if level is None:
        return
    verdict = find_verdict()
    if verdict is not None and verdict.is_better(level):
        return
    if verdict is None:
        tell("Not shown to be better: no winner has been scored on test items yet.")
    elif verdict.p_value is None:
        tell("Not shown to be better: no parent has been scored on test items.")
    else:
        tell(
            f"Not shown to be better than every parent at the level {level:g} (p = {verdict.p_value:.2g}, "
            "see evomerge status)."
        )
    raise typer.Exit(NOT_BETTER)
