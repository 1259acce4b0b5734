"""Tensors under other names than in their files, or parts of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint, TensorFiles, TensorInfo
from evomerge.checkpoints.paging import release

__all__ = ["TensorOrigin", "rename_tensors"]


@dataclass(frozen=True)
class TensorOrigin:
    """Where a tensor is read from: ``name`` in the files, or what ``part`` returns, a view of ``sources``."""

    name: str = ""
    sources: tuple[str, ...] = ()
    part: Callable[[], Tensor] | None = None


class _RenamedFiles:
    """Reads of ``base``, under the names of ``origins``."""

    def __init__(self, base: TensorFiles, origins: Mapping[str, TensorOrigin]) -> None:
        self._base = base
        self._origins = dict(origins)

    def read(self, name: str) -> Tensor:
        origin = self._origins[name]
        return self._base.read(origin.name) if origin.part is None else origin.part()

    def is_mapped(self, name: str) -> bool:
        origin = self._origins[name]
        return all(self._base.is_mapped(source) for source in origin.sources or (origin.name,))

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        origin = self._origins[name]
        if origin.part is None:
            self._base.release(origin.name, first, end)
        elif self.is_mapped(name):
            part = origin.part()
            if part.is_contiguous():
                release(part, first, end)


def rename_tensors(
    checkpoint: Checkpoint,
    origins: Mapping[str, TensorOrigin],
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
