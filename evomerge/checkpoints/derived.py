"""Tensor files over others: some tensors are computed when they are read, the others passed through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from evomerge.checkpoints.checkpoint import TensorFiles

__all__ = ["DerivedFiles"]


class DerivedFiles:
    """Reads from ``base``, if there is one; the tensors in ``made`` are each computed by a function."""

    def __init__(self, base: TensorFiles | None, made: Mapping[str, Callable[[], Tensor]]) -> None:
        self._base = base
        self._made = dict(made)

    def read(self, name: str) -> Tensor:
        """The tensor, computed or read."""
        if name not in self._made and self._base is not None:
            return self._base.read(name)
        return self._made[name]()

    def is_mapped(self, name: str) -> bool:
        """Whether reading it costs nothing, which is not so for computed ones."""
        return name not in self._made and self._base is not None and self._base.is_mapped(name)

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        """Releases the memory of rows that are not needed for now."""
        if name not in self._made and self._base is not None:
            self._base.release(name, first, end)
