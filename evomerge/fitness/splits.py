"""Which item of a task goes into which split: a function of its content and a seed, of nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.errors import FitnessError
from evomerge.fitness.scores import Split
from evomerge.fitness.spec import SplitSpec

__all__ = ["digest", "item_names", "split_items"]

_NAME_LENGTH = 16
"""Hexadecimal digits of an item's name: 64 bits, so a million items collide with probability 3e-8."""


def digest(document: Mapping[str, Any]) -> str:
    """The sha256 of the content of ``document``, in hexadecimal; the order of its fields does not matter."""
    text = json.dumps(document, sort_keys=True, default=str, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def item_names(digests: Iterable[str]) -> list[str]:
    """A short name for each item; the second, third, ... copy of one content gets a number."""
    seen: Counter[str] = Counter()
    names = []
    for each in digests:
        seen[each] += 1
        copy = f".{seen[each]}" if seen[each] > 1 else ""
        names.append(each[:_NAME_LENGTH] + copy)
    return names


def split_items(
    digests: Sequence[str], spec: SplitSpec, limit: int | None = None, where: str = "fitness.splits"
) -> dict[Split, tuple[int, ...]]:
    """The positions (ascending) of the items of each split.

    Items are ordered by a hash of seed and content and cut into three runs. A cut never separates
    equal contents: the earlier split takes all copies, and may so exceed its size.

    Raises:
        FitnessError: there are too few items, or a split would be empty; ``where`` names the task.
    """
    order = sorted(range(len(digests)), key=lambda position: _rank(spec.seed, digests[position]))
    if limit is not None:
        order = order[: _whole_runs(order, digests, min(limit, len(order)))]
    parts: dict[Split, tuple[int, ...]] = {}
    start, end = 0, 0.0
    for split in Split:
        share = getattr(spec, split.value)
        end += share * len(order) if isinstance(share, float) else share
        wanted = math.floor(end + 0.5)
        if wanted > len(order):
            raise FitnessError(
                where,
                f"the splits ask for more than the {len(order)} items of the task ({_asked(spec)})",
                "Make the numbers smaller, or give fractions.",
            )
        stop = _whole_runs(order, digests, wanted)
        if stop <= start:
            raise FitnessError(
                where,
                f"split {split.value!r} would be empty: the task has {len(order)} items ({_asked(spec)})",
                "Use a task with more items, raise fitness.limit if there is one, or change the shares.",
            )
        parts[split] = tuple(sorted(order[start:stop]))
        start = stop
    return parts


def _rank(seed: int, content: str) -> str:
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()


def _whole_runs(order: Sequence[int], digests: Sequence[str], stop: int) -> int:
    """``stop``, moved behind the copies of the item in front of it."""
    while 0 < stop < len(order) and digests[order[stop]] == digests[order[stop - 1]]:
        stop += 1
    return stop


def _asked(spec: SplitSpec) -> str:
    return f"search {spec.search}, validation {spec.validation}, test {spec.test}"
