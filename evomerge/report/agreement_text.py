"""How well two measures agree: in sentences, and as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evomerge.search.agreement import Agreement

__all__ = ["agreement_document", "agreement_text", "agreement_warning"]


def agreement_text(found: Agreement) -> str:
    """The rank correlation with its interval, and how many models it rests on, on one line."""
    text = f"{found.measure} against the metrics on search items: "
    if found.tau is None or found.low is None or found.high is None:
        text += "no rank correlation"
    else:
        text += f"Kendall's tau {found.tau:.2f} (95 % interval {found.low:.2f} to {found.high:.2f})"
    kinds = f"{_count(found.baselines, 'baseline')}, {_count(found.candidates, 'finalist')}"
    return f"{text}, {_count(found.models, 'model')} ({kinds})."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def agreement_warning(found: Agreement) -> str | None:
    """What to do where the two do not agree; ``None`` where they do."""
    if not found.is_doubtful:
        return None
    return (
        f"{found.measure} does not rank these models as their metrics do, so what it prefers may not "
        "be better. "
        "Compare the test scores, score more items, or search with measure: metric."
    )


def agreement_document(found: Agreement) -> dict[str, Any]:
    """Plain JSON values."""
    return {**asdict(found), "models": found.models, "warning": agreement_warning(found)}
