"""What a study scored: kept beside its head, compared when it goes on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.errors import StudyError
from evomerge.fitness.scored import ScoredDigest
from evomerge.search._head import Difference, Head
from evomerge.search._rows import MAIN, SENSELESS
from evomerge.search._storage import file_of, open_storage

__all__ = [
    "SCORED",
    "Known",
    "known",
    "other_experiment",
    "refuse_other_study",
    "refuse_other_tasks",
    "scored_of",
    "study_names",
]

SCORED = "scored"
"""User attribute of the study; those of release 0.1.0 have none."""


class Known(NamedTuple):
    """What can be told of a study without opening it for writing."""

    has_trials: bool
    scored: ScoredDigest | None
    head: Head | None

    @property
    def as_drawn(self) -> bool:
        """Whether its few-shot examples are those of release 0.1.0, which went on or is to go on."""
        return self.scored.as_drawn if self.scored is not None else self.has_trials


def known(storage: str, name: str) -> Known:
    """What is known of the study ``name``, which need not exist; creates nothing.

    Raises:
        StudyError: The storage is malformed or cannot be read.
    """
    path = file_of(storage)
    if path is not None and not path.is_file():
        return Known(has_trials=False, scored=None, head=None)
    opened = open_storage(storage, create=False)
    try:
        if name not in opened.study_names():
            return Known(has_trials=False, scored=None, head=None)
        attributes = opened.attributes(name)
        where = f"study {name!r} in {opened.url}"
        has_trials = any(MAIN in row.attributes for row in opened.trials(name))
        head = Head.read(attributes, where) if attributes or has_trials else None
        return Known(has_trials, scored_of(attributes.get(SCORED), where), head)
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


def refuse_other_study(
    study: Known, name: str, document: Mapping[str, Any], free: Collection[str], now: ScoredDigest
) -> None:
    """Nothing, where an experiment may go on with what is ``known`` of its study.

    Raises:
        StudyError: The study has trials of another experiment, or of other tasks.
    """
    if not study.has_trials or study.head is None:
        return
    where = f"study {name!r}"
    if differing := study.head.differences(document, free):
        raise other_experiment(differing, where)
    if study.scored is not None:
        refuse_other_tasks(study.scored, now, where)


def other_experiment(differing: Sequence[Difference], where: str) -> StudyError:
    """The error of a study that belongs to an experiment with other fields."""
    listed = "".join(f"\n  - {d}" for d in differing)
    return StudyError(
        where,
        "exists with another experiment. Give the new one another name, or restore these fields "
        f"(study -> now):{listed}",
    )


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
