"""Named parts of one kind: our own, and those of installed packages (entry points)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

__all__ = ["Registry"]

_log = logging.getLogger(__name__)

Part = TypeVar("Part")


class Registry(Mapping[str, Part], Generic[Part]):
    """Parts by name, in the order of their registration.

    Packages add parts without a fork: an entry point of the group ``group`` names a module (or anything in
    one) whose import registers them. Entry points are loaded when a name is asked for that is not known yet,
    or when all parts are listed, so that other commands do not import them. One that cannot be imported is
    logged and listed in ``failures``; only its own parts are missing.

    Args:
        kind: what a part is, for messages ("merge method").
        group: of the entry points ("evomerge.methods").
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._parts: dict[str, Part] = {}
        self._failures: list[str] = []
        self._is_loaded = False

    def add(self, name: str, part: Part) -> None:
        """Register ``part``.

        Raises:
            ValueError: There is one of this name.
        """
        if name in self._parts:
            raise ValueError(f"the {self.kind} {name!r} is registered twice")
        self._parts[name] = part

    @property
    def added(self) -> tuple[str, ...]:
        """Names registered so far; loads nothing."""
        return tuple(self._parts)

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each entry point that failed to load so far."""
        return tuple(self._failures)

    def __getitem__(self, name: str) -> Part:
        if name not in self._parts:
            self._load()
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(tuple(self._parts))

    def __len__(self) -> int:
        self._load()
        return len(self._parts)

    def _load(self) -> None:
        if self._is_loaded:
            return
        self._is_loaded = True  # first: an import may ask for parts itself
        for entry_point in entry_points(group=self.group):
            self._load_one(entry_point)

    def _load_one(self, entry_point: EntryPoint) -> None:
        before = dict(self._parts)
        try:
            entry_point.load()
        except Exception as exception:  # noqa: BLE001 (anything may happen in a package that is not ours)
            self._parts = before
            package = entry_point.dist.name if entry_point.dist is not None else "?"
            reason = f"{type(exception).__name__}: {exception}"
            failure = f"{entry_point.name!r} of the package {package} cannot be loaded ({reason})"
            self._failures.append(failure)
            _log.warning("%s: %s", self.group, failure)
