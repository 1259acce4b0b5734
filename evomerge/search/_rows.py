"""What passes between a study and its storage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

from evomerge.recipe import Dimension, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["LEASE", "MAIN", "SENSELESS", "LeaseLost", "Row", "distributions", "json_text"]

LEASE = "evomerge:lease"
"""System attribute of a study: who may write to it."""

MAIN = "evomerge"
"""User attribute of every trial of ours; no two trials have equal ones."""


SENSELESS = (
    AssertionError,
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What comes of reading stored text that somebody damaged: no bug, so it becomes a ``StudyError``."""


class LeaseLost(Exception):  # noqa: N818 (no error of the storage)
    """Another driver has taken the study over; nothing was written."""


@dataclass(frozen=True)
class Row:
    """A finished trial as it is stored: what Optuna's tools show, and attributes that are plain JSON."""

    parameters: Mapping[str, tuple[BaseDistribution, Value]]
    score: float | None
    """``None`` for a failed trial."""
    attributes: Mapping[str, Any]
    number: int = -1


def json_text(value: Any) -> str:
    """``value`` as compact JSON in ASCII: pydantic's encoder takes a third of the standard one's time."""
    with suppress(PydanticSerializationError):  # half a character, say, of a file name that is no UTF-8
        text = to_json(value, inf_nan_mode="constants")
        if text.isascii():
            return text.decode("ascii")
    return _ascii_json(value)


_ascii_json = json.JSONEncoder(separators=(",", ":")).encode


def distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Optuna's words for the dimensions, for those who look at a study with its tools; not read here."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, BaseDistribution] = {}
    for d in dimensions:
        if d.kind == "float":
            made[d.name] = FloatDistribution(d.low, d.high, log=d.log)
        elif d.kind == "int":
            made[d.name] = IntDistribution(int(d.low), int(d.high))
        else:
            made[d.name] = CategoricalDistribution(d.choices)
    return made
