"""The manifest of a study: its experiment, the versions of libraries, drifts that were accepted."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from evomerge.errors import StudyError
from evomerge.study.storage_row import DAMAGE_ERRORS
from evomerge.version import __version__

__all__ = [
    "MANIFEST",
    "AcceptedDrift",
    "Difference",
    "Manifest",
    "Read",
    "differences",
    "versions",
    "versions_text",
]

FORMAT = 2
"""The version of what is stored; a study of a later format is refused. 1: release 0.1.0."""

MANIFEST = "evomerge"
"""User attribute of the study that holds its manifest."""

_DECIDING = ("cma", "numpy", "optuna", "torch", "lm_eval")


Read = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A stored document with the fields of today; those that it lacks mean "as it was"."""


@dataclass(frozen=True)
class Difference:
    """One field in which two experiments differ; ``None`` where it is absent."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} -> {self.new!r}"


@dataclass(frozen=True)
class AcceptedDrift:
    """A point from which on the sampler continued from a history that it would not have proposed itself.

    The first ``generations`` are from before (``candidates`` in all; but for the first ``closed``, they may
    only have been begun); the others were proposed under ``versions``, of which ``changed`` differ from those
    before.
    """

    generations: int
    candidates: int
    closed: int
    versions: Mapping[str, str]
    changed: tuple[Difference, ...] = ()


class _StoredDrift(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    generations: int
    candidates: int
    closed: int | None = None
    versions: dict[str, str]


class Manifest(BaseModel):
    """The experiment of a study, and ``versions`` of libraries at its creation.

    Fields that a later evomerge added are kept.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    format: int = FORMAT
    experiment: dict[str, Any]
    versions: dict[str, str]
    drifts: tuple[_StoredDrift, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Manifest:
        """The manifest of a new study for the experiment ``document``."""
        return cls(experiment=_plain(document), versions=versions())

    @classmethod
    def read(cls, attributes: Mapping[str, Any], where: str) -> Manifest:
        """The manifest among the ``attributes`` of a study; ``where`` names the study in errors.

        Raises:
            StudyError: There is none, it is damaged, or a later evomerge wrote it.
        """
        stored = attributes.get(MANIFEST)
        if not isinstance(stored, Mapping):
            raise StudyError(where, "this study was not written by evomerge", "Choose another name.")
        try:
            if stored["format"] > FORMAT:
                later = stored["versions"].get("evomerge")
                raise StudyError(where, f"was written by a later evomerge ({later})", "Update.")
            return cls.model_validate({**stored, "drifts": tuple(stored.get("drifts", ()))})
        except DAMAGE_ERRORS:
            raise StudyError(where, "the study is damaged: its own record cannot be read") from None

    def stored(self) -> dict[str, Any]:
        """Plain JSON values, for ``read``."""
        return self.model_dump(mode="json", exclude=None if self.drifts else {"drifts"})

    @property
    def accepted_drifts(self) -> tuple[AcceptedDrift, ...]:
        """In order, each with what it changed."""
        found, before = [], self.versions
        for drift in self.drifts:
            changed = differences(before, drift.versions)
            closed = drift.generations - 1 if drift.closed is None else drift.closed  # the first had no lag
            found.append(AcceptedDrift(drift.generations, drift.candidates, closed, drift.versions, changed))
            before = drift.versions
        return tuple(found)

    def with_experiment(self, document: Mapping[str, Any]) -> Manifest:
        """The manifest with the experiment as it is now, in the format of this release."""
        return self.model_copy(update={"experiment": _plain(document), "format": FORMAT})

    def differences(
        self, document: Mapping[str, Any], free: Collection[str], read: Read
    ) -> tuple[Difference, ...]:
        """Where ``document`` differs from the experiment, apart from the ``free`` fields, in its order.

        ``read`` gives both the fields of today.
        """
        old, new = dict(_leaves(read(self.experiment))), dict(_leaves(read(_plain(document))))
        return tuple(
            difference
            for difference in differences(old, new)
            if not any(difference.field == f or difference.field.startswith((f"{f}.", f"{f}[")) for f in free)
        )


def versions() -> dict[str, str]:
    """Installed versions of what decides a search: cma, numpy, optuna, torch, lm_eval, evomerge."""
    found = {}
    for name in _DECIDING:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return {**found, "evomerge": __version__}


def versions_text(changed: Sequence[Difference]) -> str:
    """Versions that differ, on one line."""
    return ", ".join(f"{d.field} {d.old or 'absent'} -> {d.new or 'absent'}" for d in changed)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The entries in which two flat mappings differ."""
    return tuple(
        Difference(field, old.get(field), new.get(field))
        for field in dict.fromkeys((*new, *old))
        if (field in old) != (field in new) or old.get(field) != new.get(field)
    )


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` as the storage returns it: lists for tuples, texts for enumerations."""
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a container, and every empty container, with its dotted name."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list) and node:
        for i, value in enumerate(node):
            yield from _leaves(value, f"{place}[{i}]")
    else:
        yield place, node
