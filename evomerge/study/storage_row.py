"""The rows that a study exchanges with its storage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

from evomerge.recipe import Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["DAMAGE_ERRORS", "EPOCHS", "LEASE", "MAIN", "LeaseLost", "StorageRow", "json_text"]

LEASE = "evomerge:lease"
"""System attribute of a study: who may write to it."""

EPOCHS = "evomerge:epochs"
"""System attribute of a study: its drivers in order, each with the first number that its trials may have."""

MAIN = "evomerge"
"""Attribute of every trial of ours: a system attribute; in format 1 a user attribute."""


DAMAGE_ERRORS = (
    AssertionError,
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading damaged text raises: not a bug, so it becomes a ``StudyError``."""


class LeaseLost(Exception):  # noqa: N818 (not an error of the storage)
    """Another driver has taken the study over; what was written last does not count."""


@dataclass(frozen=True)
class StorageRow:
    """A finished trial as it is stored: what Optuna's tools show, and attributes that are plain JSON.

    ``attributes`` are for people, ``system`` is for evomerge. Equal ``system[MAIN]`` mean one trial, written
    twice. Where ``ranked`` is false, Optuna's tools show the trial, but never as the best.
    """

    parameters: Mapping[str, tuple[BaseDistribution, Value]]
    values: tuple[float, ...] | None
    """``None`` for a failed trial."""
    attributes: Mapping[str, Any]
    system: Mapping[str, Any]
    ranked: bool = True
    number: int = -1


def json_text(value: Any) -> str:
    """``value`` as compact JSON in ASCII: pydantic's encoder takes a third of the standard one's time."""
    with suppress(
        PydanticSerializationError
    ):  # half a character, for example, of a file name that is not UTF-8
        text = to_json(value, inf_nan_mode="constants")
        if text.isascii():
            return text.decode("ascii")
    return _ascii_json(value)


_ascii_json = json.JSONEncoder(separators=(",", ":")).encode
