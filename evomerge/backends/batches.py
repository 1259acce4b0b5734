"""Trees of tokens in the rows of forward passes, sorted by size, so that little is padding."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from evomerge.backends.shared_prefixes import Prefix, Tree

__all__ = ["Batch", "PassLimit", "fill_rows"]


@dataclass(frozen=True)
class PassLimit:
    """What one forward pass may hold; a single tree may be more.

    ``rows`` of at most ``tokens`` together, padding and the prefix of each row included; the head is read at
    ``outputs`` of them.
    """

    width: int
    """Tokens of a row that several trees share."""
    rows: int
    tokens: int
    outputs: int
    kept: int
    """Tokens whose keys and values are in memory while answers are generated."""

    def halved(self, times: int) -> PassLimit:
        """So many times half of it."""
        limits = (self.rows, self.tokens, self.outputs, self.kept)
        return PassLimit(self.width, *(max(1, each >> times) for each in limits))


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass: trees side by side in rows of ``width`` tokens, padded on the right."""

    prefix: Prefix | None
    rows: tuple[tuple[Tree, ...], ...]
    width: int

    @property
    def is_plain(self) -> bool:
        """Whether each row is one sequence, read from its first token on: no mask is needed."""
        return self.prefix is None and all(len(row) == 1 and len(row[0].segments) == 1 for row in self.rows)


def fill_rows(trees: Iterable[Tree], limit: PassLimit) -> Iterator[Batch]:
    """Batches that together hold all ``trees``, those of one prefix in the order they come.

    Small trees share rows of ``limit.width`` tokens; one that needs more than half of it has its own row.
    """
    for (_, shared), group in groupby(trees, key=lambda tree: (id(tree.prefix), tree.shared)):
        left = deque(sorted(group, key=lambda tree: -len(tree)))
        while left:
            yield _batch(left, limit.width if shared else 1, limit)


def _batch(left: deque[Tree], row_width: int, limit: PassLimit) -> Batch:
    """The next batch of ``left``, which is sorted by size and loses what the batch takes."""
    prefix = left[0].prefix
    widest = len(left[0])
    width = row_width if 2 * widest <= row_width else widest
    known = 0 if prefix is None else prefix.end
    count = max(1, min(limit.rows, limit.tokens // (width + known)))
    rows: list[tuple[Tree, ...]] = []
    outputs = 0
    while left and len(rows) < count and (not rows or outputs + left[0].output_count <= limit.outputs):
        rows.append(_row(left, width, limit.outputs - outputs))
        outputs += sum(tree.output_count for tree in rows[-1])
    return Batch(prefix, tuple(rows), max(sum(map(len, row)) for row in rows))


def _row(left: deque[Tree], width: int, outputs: int) -> tuple[Tree, ...]:
    """The largest tree left, and as many of the next and of the smallest ones as fit beside it."""
    row = [left.popleft()]
    room, outputs = width - len(row[0]), outputs - row[0].output_count

    def fits(tree: Tree) -> bool:
        return row[0].shared and len(tree) <= room and tree.output_count <= outputs

    while left and (fits(left[0]) or fits(left[-1])):
        row.append(left.popleft() if fits(left[0]) else left.pop())
        room, outputs = room - len(row[-1]), outputs - row[-1].output_count
    return tuple(row)
