"""What a study scored: kept beside its head, compared when it goes on."""

from __future__ import annotations

from typing import Any, NamedTuple

from evomerge.errors import StudyError
from evomerge.fitness.scored import ScoredDigest
from evomerge.search._rows import MAIN, SENSELESS
from evomerge.search._storage import open_storage, storage_file

__all__ = ["SCORED", "Known", "known", "refuse_other_tasks", "scored_of", "study_names"]

SCORED = "scored"
"""User attribute of the study; those of release 0.1.0 have none."""


class Known(NamedTuple):
    """What can be told of a study without opening it for writing."""

    has_trials: bool
    scored: ScoredDigest | None

    @property
    def as_drawn(self) -> bool:
        """Whether its few-shot examples are those of release 0.1.0, which went on or is to go on."""
        return self.scored.as_drawn if self.scored is not None else self.has_trials


def known(storage: str, name: str, *, wait: bool = False) -> Known:
    """What is known of the study ``name``, which need not exist; creates nothing.

    With ``wait`` a server that is away is waited for, as when a search opens its study.

    Raises:
        StudyError: The storage is malformed or cannot be read.
    """
    path = storage_file(storage)
    if path is not None and (not path.is_file() or path.stat().st_size == 0):
        return Known(has_trials=False, scored=None)
    opened = open_storage(storage, create=wait)  # the file is there
    try:
        if name not in opened.study_names():
            return Known(has_trials=False, scored=None)
        attributes = opened.attributes(name)
        where = f"study {name!r} in {opened.url}"
        has_trials = any(MAIN in row.attributes for row in opened.trials(name))
        return Known(has_trials, scored_of(attributes.get(SCORED), where))
    finally:
        opened.close()


def study_names(storage: str) -> tuple[str, ...]:
    """Names of the studies in ``storage``, sorted.

    Raises:
        StudyError: The storage cannot be reached or read.
    """
    opened = open_storage(storage, create=False)
    try:
        return opened.study_names()
    finally:
        opened.close()


def scored_of(document: Any, where: str) -> ScoredDigest | None:
    """What the attribute holds.

    Raises:
        StudyError: It was damaged; ``where`` names the study.
    """
    try:
        return None if document is None else ScoredDigest.from_document(document)
    except (*SENSELESS, AttributeError):
        raise StudyError(where, "the study is damaged: what it scored cannot be read") from None


def refuse_other_tasks(then: ScoredDigest, now: ScoredDigest, where: str) -> None:
    """Nothing, where both score the same.

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
