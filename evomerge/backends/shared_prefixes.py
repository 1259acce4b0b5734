"""Token sequences that begin alike as trees, so that a model reads each shared beginning once.

A tree holds each token of its sequences once, in depth-first order; a token sees those on its path. Where
many sequences share a long beginning, it becomes a ``Prefix``: read once, its keys and values kept for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Prefix", "Read", "Segment", "Tokens", "Tree", "plan_trees"]

Tokens: TypeAlias = npt.NDArray[np.int32]

LONG_PREFIX = 64
"""A shared beginning of fewer tokens is not worth a pass of its own."""

CLOSE = 8
"""Sequences that share fewer tokens than this are not worth a common tree: apart they fill rows better."""


@dataclass(frozen=True, eq=False)
class Read:
    """A sequence to be read: the model's outputs from position ``first`` on are wanted.

    Without ``shared`` it must have a row of its own. Where ``kept``, its keys and values are wanted, too.
    """

    tokens: Tokens
    first: int
    shared: bool = True
    kept: bool = False


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of several sequences, ``parent`` included; its length is ``end``."""

    tokens: Tokens
    parent: Prefix | None

    @property
    def begin(self) -> int:
        """How many of the tokens its parent has."""
        return 0 if self.parent is None else self.parent.end

    @property
    def end(self) -> int:
        """How many tokens it has, those of its parent included."""
        return len(self.tokens)


@dataclass(frozen=True)
class Segment:
    """Tokens that follow each other in a tree: ``tokens[start:end]`` after ``parent`` (-1: none)."""

    start: int
    end: int
    parent: int
    depth: int
    """The position of the first one in its sequence."""


@dataclass(frozen=True, eq=False)
class Tree:
    """Sequences merged where they begin alike, without the tokens of ``prefix``."""

    prefix: Prefix | None
    tokens: Tokens
    segments: tuple[Segment, ...]
    members: tuple[int, ...]
    """Which sequences, by number."""
    outputs: tuple[npt.NDArray[np.int64], ...]
    """For each member, where in ``tokens`` its wanted outputs are, in order."""
    paths: tuple[npt.NDArray[np.int64], ...]
    """For each member whose keys and values are wanted, where in ``tokens`` its tokens are; else empty."""
    shared: bool

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def output_count(self) -> int:
        """At how many different places outputs are wanted."""
        return len(np.unique(np.concatenate(self.outputs)))


def plan_trees(reads: Sequence[Read], widest: int) -> Iterator[Tree]:
    """Trees that together hold all ``reads``, of ``widest`` tokens or twice their longest sequence at most.

    A function of the sequences alone, not of their order. Trees of one prefix follow each other.
    """
    alone = [n for n, read in enumerate(reads) if not read.shared]
    for same in _equal(reads, alone):
        yield _tree(reads, same, [len(reads[n].tokens) for n in same], None)
    order = sorted((n for n, read in enumerate(reads) if read.shared), key=lambda n: _key(reads[n].tokens))
    if order:
        yield from _Planner(reads, order, widest).trees()


def _equal(reads: Sequence[Read], chosen: Sequence[int]) -> list[list[int]]:
    """``chosen``, those of equal tokens together."""
    groups: dict[bytes, list[int]] = {}
    for n in chosen:
        groups.setdefault(_key(reads[n].tokens), []).append(n)
    return [groups[key] for key in sorted(groups)]


def _key(tokens: Tokens) -> bytes:
    """Sorts as the tokens do."""
    return tokens.astype(">i4").tobytes()


class _Planner:
    """Divides sequences in lexicographic order where neighbours share least."""

    def __init__(self, reads: Sequence[Read], order: Sequence[int], widest: int) -> None:
        self.reads = reads
        self.order = order
        self.widest = widest
        self.lengths = np.array([len(reads[n].tokens) for n in order])
        self.firsts = np.array([reads[n].first for n in order])
        shared = [_common(reads[a].tokens, reads[b].tokens) for a, b in pairwise(order)]
        self.common = np.array([0, *shared])
        self.added = np.concatenate([[0], np.cumsum(self.lengths - self.common)])

    def trees(self) -> Iterator[Tree]:
        todo: list[tuple[int, int, Prefix | None]] = [(0, len(self.order), None)]
        while todo:
            start, end, prefix = todo.pop()
            begin = 0 if prefix is None else prefix.end
            least = int(self.common[start + 1 : end].min()) if end - start > 1 else 0
            width = self._width(start, end) - begin
            longest = int(self.lengths[start:end].max()) - begin
            widest = max(self.widest, 2 * longest)
            if end - start == 1 or width == longest or (width <= widest and least - begin >= CLOSE):
                common = self.common[start:end].tolist()
                yield _tree(self.reads, self.order[start:end], common, prefix)
                continue
            shared = min(least, int(self.firsts[start:end].min()))
            if width > widest and shared - begin >= LONG_PREFIX:
                tokens = self.reads[self.order[start]].tokens[:shared]
                todo.append((start, end, Prefix(tokens, prefix)))
                continue
            middle = self._middle(start, end, least)
            todo += [(middle, end, prefix), (start, middle, prefix)]

    def _width(self, start: int, end: int) -> int:
        """Tokens of a tree of these sequences, from the first token on."""
        return int(self.added[end] - self.added[start] + self.common[start])

    def _middle(self, start: int, end: int, least: int) -> int:
        """Where neighbours share ``least`` tokens, the place that is nearest to the middle."""
        places = np.nonzero(self.common[start + 1 : end] == least)[0] + start + 1
        goal = (self.added[start] + self.added[end]) / 2
        return int(places[np.abs(self.added[places] - goal).argmin()])


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens both begin with."""
    shorter = min(len(a), len(b))
    different = np.nonzero(a[:shorter] != b[:shorter])[0]
    return int(different[0]) if len(different) else shorter


def _tree(
    reads: Sequence[Read], members: Sequence[int], common: Sequence[int], prefix: Prefix | None
) -> Tree:
    """The tree of ``members``, each of which shares the first ``common`` tokens with the one before it."""
    begin = 0 if prefix is None else prefix.end
    parts: list[Tokens] = []
    segments: list[Segment] = []
    outputs, paths = [], []
    size = 0
    path = np.zeros(0, dtype=np.int64)
    for place, n in enumerate(members):
        tokens = reads[n].tokens
        known = max(int(common[place]) - begin, 0) if place else 0
        new = tokens[begin + known :]
        if len(new):
            parent = int(path[known - 1]) if known else -1
            segments.append(Segment(size, size + len(new), parent, begin + known))
            path = np.concatenate([path[:known], np.arange(size, size + len(new))])
            parts.append(new)
            size += len(new)
        else:
            path = path[: len(tokens) - begin]
        outputs.append(path[reads[n].first - begin : len(tokens) - begin])
        paths.append(path if reads[n].kept else path[:0])
    return Tree(
        prefix,
        np.concatenate(parts),
        tuple(segments),
        tuple(members),
        tuple(outputs),
        tuple(paths),
        reads[members[0]].shared,
    )
