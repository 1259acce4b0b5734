"""What a worked example is: a merge of about four numbers and its result, written as the arithmetic of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Numbers = list[Any]
"""A vector, or a matrix as its rows."""


@dataclass(frozen=True)
class Worked:
    """A merge and its result. Of the settings, those that are lists have one number per model."""

    method: str
    shows: str
    models: list[Numbers]
    result: Numbers
    base: Numbers | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def over(b: float, *task_vectors: Numbers) -> list[Numbers]:
    """The models with these task vectors over a base whose elements are all ``b``."""
    return [[over(b, v)[0] if isinstance(v, list) else b + v for v in d] for d in task_vectors]
