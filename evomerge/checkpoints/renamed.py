"""Tensors under other names than in their files, or parts of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint, TensorFiles, TensorInfo
from evomerge.checkpoints.paging import let_go

__all__ = ["Origin", "renamed"]


@dataclass(frozen=True)
class Origin:
    """Where a tensor is read: as ``name`` in the files, or what ``part`` returns, a view of ``sources``."""

    name: str = ""
    sources: tuple[str, ...] = ()
    part: Callable[[], Tensor] | None = None


class _RenamedFiles:
    """Reads of ``base``, under the names of ``origins``."""

    def __init__(self, base: TensorFiles, origins: Mapping[str, Origin]) -> None:
        self._base = base
        self._origins = dict(origins)

    def read(self, name: str) -> Tensor:
        origin = self._origins[name]
        return self._base.read(origin.name) if origin.part is None else origin.part()

    def mapped(self, name: str) -> bool:
        origin = self._origins[name]
        return all(self._base.mapped(source) for source in origin.sources or (origin.name,))

    def let_go(self, name: str, first: int = 0, end: int | None = None) -> None:
        origin = self._origins[name]
        if origin.part is None:
            self._base.let_go(origin.name, first, end)
        elif self.mapped(name):
            part = origin.part()
            if part.is_contiguous():
                let_go(part, first, end)


def renamed(
    checkpoint: Checkpoint,
    origins: Mapping[str, Origin],
    infos: Mapping[str, TensorInfo],
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """``checkpoint`` with the tensors ``infos``, each read from its origin, and ``config`` if it is given."""
    view = copy.copy(checkpoint)
    view.tensors = dict(infos)
    view.files = _RenamedFiles(checkpoint.files, origins)
    if config is not None:
        view.config = dict(config)
    return view
