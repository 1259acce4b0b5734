"""A verdict in sentences, and as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evomerge.search.verdict import Against, Verdict

__all__ = ["LEVEL", "verdict_document", "verdict_text"]

LEVEL = 0.05
"""Level of significance of the sentences."""


def verdict_text(verdict: Verdict) -> tuple[str, ...]:
    """Whether the winner beats the best parent and the default merges, and how far search scores were off."""
    sentences = []
    if verdict.parent is not None:
        sentences.append(_parent_sentence(verdict, verdict.parent))
    if verdict.merge is not None:
        sentences.append(f"Against the merge {verdict.merge.name}: {_difference(verdict.merge)}.")
    if verdict.overestimate is not None:
        sentences.append(_overestimate(verdict))
    return tuple(sentences)


def _parent_sentence(verdict: Verdict, parent: Against) -> str:
    name, comparison = verdict.winner.name, parent.comparison
    told = f"{_difference(parent)}, {comparison.items} test items"
    if verdict.is_better(LEVEL):
        return f"{name} is better than the best parent, {parent.name}: {told}."
    if comparison.difference < 0 and comparison.p_value < LEVEL:
        return f"{name} is worse than the best parent, {parent.name}: {told}."
    return (
        f"No merge is shown to be better than the best parent, {parent.name}: {name} differs by {told}. "
        f"So many items can show a difference of {comparison.detectable:.3f}."
    )


def _difference(against: Against) -> str:
    found = against.comparison
    return (
        f"{found.difference:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f}, "
        f"p {_p(found.p_value)})"
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _overestimate(verdict: Verdict) -> str:
    assert verdict.overestimate is not None  # noqa: S101 (the caller looked)
    text = f"Its search score is {abs(verdict.overestimate):.3f} "
    text += "above" if verdict.overestimate >= 0 else "below"
    text += " its test score"
    if verdict.parent_overestimate is not None and verdict.parent is not None:
        text += f" ({verdict.parent.name}: {verdict.parent_overestimate:+.3f})"
    return f"{text}."


def verdict_document(verdict: Verdict | None) -> dict[str, Any] | None:
    """Plain JSON values; ``None`` before there is a verdict."""
    if verdict is None:
        return None
    return {
        "winner": verdict.winner.name,
        "test": verdict.test,
        "best_parent": _against(verdict.parent),
        "best_default_merge": _against(verdict.merge),
        "p_value": verdict.p_value,
        "better_than_every_parent": verdict.is_better(LEVEL),
        "overestimate": verdict.overestimate,
        "overestimate_of_best_parent": verdict.parent_overestimate,
        "sentences": list(verdict_text(verdict)),
    }


def _against(against: Against | None) -> dict[str, Any] | None:
    return None if against is None else {"name": against.name, **asdict(against.comparison)}
