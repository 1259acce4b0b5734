"""How well the measure of a search agrees with the metrics, for the commands that show a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.cli._console import say, warn

if TYPE_CHECKING:
    from evomerge.search.agreement import Agreement

__all__ = ["show_agreement"]


def show_agreement(found: Agreement | None) -> None:
    """A line, and a warning where the two do not agree; nothing where the search went by the metrics."""
    if found is None:
        return
    from evomerge.report.agreement_text import agreement_text, agreement_warning

    say(agreement_text(found))
    warning = agreement_warning(found)
    if warning is not None:
        warn(warning)
