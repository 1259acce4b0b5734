"""What is known of the studies in a storage without opening one for writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import StudyError
from evomerge.fitness.scored import ScoredDigest
from evomerge.study.manifest import Manifest
from evomerge.study.scored_tasks import SCORED, scored_of
from evomerge.study.serialization import is_trial
from evomerge.study.storage import open_storage, storage_file
from evomerge.study.storage_row import DAMAGE_ERRORS
from evomerge.study.warm_start import warm_started_experiment

__all__ = ["Known", "known", "study_names"]


@dataclass(frozen=True)
class Known:
    """What is known of a study without opening it for writing."""

    has_trials: bool = False
    scored: ScoredDigest | None = None
    document: Mapping[str, Any] | None = None
    """The stored document of its experiment, once it has trials."""
    warm_started: str | None = None
    """Digest of the experiment for which it took something over from another study."""

    @property
    def as_drawn(self) -> bool:
        """Whether few-shot examples are drawn as by release 0.1.0, as the study was begun with it."""
        return self.scored.as_drawn if self.scored is not None else self.has_trials


def known(storage: str, name: str, *, wait: bool = False) -> Known:
    """What is known of the study ``name``, which need not exist; creates nothing.

    With ``wait`` a server that is away is waited for, as when a search opens its study.

    Raises:
        StudyError: The storage is malformed or cannot be read.
    """
    path = storage_file(storage)
    if path is not None and (not path.is_file() or path.stat().st_size == 0):
        return Known()
    opened = open_storage(storage, create=wait)  # the file is there
    try:
        if name not in opened.study_names():
            return Known()
        attributes = opened.attributes(name)
        where = f"study {name!r} in {opened.url}"
        scored = scored_of(attributes.get(SCORED), where)
        has_trials = any(is_trial(row) for row in opened.trials(name))
        try:
            warm_started = warm_started_experiment(attributes)
        except DAMAGE_ERRORS:
            raise StudyError(where, "the study is damaged: what it took over cannot be read") from None
        document = Manifest.read(attributes, where).experiment if has_trials else None
        return Known(has_trials, scored, document, warm_started)
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
