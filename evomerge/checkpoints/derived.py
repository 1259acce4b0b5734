"""Tensors over other tensors: some are computed when they are read, the rest passes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from evomerge.checkpoints.checkpoint import TensorFiles

__all__ = ["DerivedFiles"]


class DerivedFiles:
    """Reads of ``base``, if there is one, but for the tensors in ``made``, each of which a function makes."""

    def __init__(self, base: TensorFiles | None, made: Mapping[str, Callable[[], Tensor]]) -> None:
        self._base = base
        self._made = dict(made)

    def read(self, name: str) -> Tensor:
        """The tensor, made or read."""
        if name not in self._made and self._base is not None:
            return self._base.read(name)
        return self._made[name]()

    def is_mapped(self, name: str) -> bool:
        """Whether reading it costs nothing: what is made does cost."""
        return name not in self._made and self._base is not None and self._base.is_mapped(name)

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        """Those rows are not needed for now."""
        if name not in self._made and self._base is not None:
            self._base.release(name, first, end)
