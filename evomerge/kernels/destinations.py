"""Destinations of the rows of an output tensor: memory, or anything else that takes rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Destination", "InMemory", "Sink"]


class Destination(Protocol):
    """Where one output tensor goes, as rows in the output dtype."""

    def place(self, device: torch.device) -> Tensor | None:
        """All rows, contiguous and on ``device``, of whatever dtype; ``None`` where no tensor holds them."""
        ...

    def room(self, row: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of ``dtype`` to compute the rows from ``row`` on in; with shape and device of ``like``."""
        ...

    def put(self, row: int, rows: Tensor) -> None:
        """Those rows are computed; ``rows`` may be what ``room`` gave, which is then free again."""
        ...


class InMemory:
    """A tensor in memory, (R, C); of another dtype (what a live model calculates in) or device if need be."""

    def __init__(self, place_RC: Tensor) -> None:
        self._place_RC = place_RC

    def place(self, device: torch.device) -> Tensor | None:
        """The tensor itself, if it lies there."""
        is_there = self._place_RC.device == device and self._place_RC.is_contiguous()
        return self._place_RC if is_there else None

    def room(self, row: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """The place itself where it has that dtype and device."""
        if self._place_RC.dtype == dtype and self._place_RC.device == like.device:
            return self._rows(row, like)
        return torch.empty(like.shape, dtype=dtype, device=like.device)

    def put(self, row: int, rows: Tensor) -> None:
        """Copies what was not computed in place."""
        place_RC = self._rows(row, rows)
        if place_RC.data_ptr() != rows.data_ptr():
            place_RC.copy_(rows)

    def _rows(self, row: int, like: Tensor) -> Tensor:
        return self._place_RC[row : row + like.shape[0]]


@dataclass(frozen=True)
class Sink:
    """Takes the rows of a tensor: they are rounded to ``dtype``, added to a digest and passed on."""

    destination: Destination
    dtype: torch.dtype
    state: Tensor
    """Of the digest."""
