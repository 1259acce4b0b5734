"""The verdict of a search and the agreement of its measures, for the commands that show a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.cli._console import console, say, warn

if TYPE_CHECKING:
    from evomerge.search.agreement import Agreement
    from evomerge.search.verdict import Verdict

__all__ = ["show_findings"]


def show_findings(verdict: Verdict | None, agreement: Agreement | None) -> None:
    """The sentences of the verdict, once there is one, then how well the measure agrees with the metrics.

    The latter only where the search went by another measure; with a warning where the two do not agree.
    """
    from evomerge.report.agreement_text import agreement_text, agreement_warning
    from evomerge.report.verdict_text import verdict_text

    if verdict is not None:
        console.print()
        for sentence in verdict_text(verdict):
            say(sentence)
    if agreement is not None:
        say(agreement_text(agreement))
        warning = agreement_warning(agreement)
        if warning is not None:
            warn(warning)
