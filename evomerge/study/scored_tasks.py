"""What a study scored: kept beside its manifest, compared when it is resumed."""

from __future__ import annotations

from typing import Any

from evomerge.errors import StudyError
from evomerge.fitness.scored import ScoredDigest
from evomerge.study.storage_row import DAMAGE_ERRORS

__all__ = ["SCORED", "refuse_other_tasks", "scored_of"]

SCORED = "scored"
"""User attribute of the study; those of release 0.1.0 have none."""


def scored_of(document: Any, where: str) -> ScoredDigest | None:
    """What the attribute holds.

    Raises:
        StudyError: It was damaged; ``where`` names the study.
    """
    try:
        return None if document is None else ScoredDigest.from_document(document)
    except DAMAGE_ERRORS:
        raise StudyError(where, "the study is damaged: what it scored cannot be read") from None


def refuse_other_tasks(then: ScoredDigest, now: ScoredDigest, where: str) -> None:
    """Check that both score the same.

    Raises:
        StudyError: They do not; tasks and what changed in them are listed.
    """
    changed = then.changes(now)
    if changed:
        listed = "".join(f"\n  - {task}: {'; '.join(what)}" for task, what in changed.items())
        raise StudyError(
            where,
            "its trials were scored on tasks that have changed since. Give the study another name, or "
            f"restore the tasks:{listed}",
        )
