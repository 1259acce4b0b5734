"""The change of an adapter to one tensor of its base; all in float32.

W + scale * B A (Hu et al. 2021, arXiv:2106.09685), for DoRA m * V / |V| of V = W + scale * B A (Liu et al.
2024, arXiv:2402.09353), replaced rows, or a whole weight in place of the base's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

__all__ = ["Change"]


@dataclass
class Change:
    """The change of one tensor: parts that are added, a whole weight, or both (embeddings)."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    whole: Tensor | None = None
    copies: dict[str, Tensor] = field(default_factory=dict)
    """Copies of the base's weight, by their names in the adapter's file."""
    scale: float = 1.0
    transposed: bool = False
    rows: tuple[int, ...] = ()
    """Which rows are replaced, for the part of that name: single tokens of an embedding."""
    resized: Tensor | None = None
    """The base's weight with another number of rows, where the adapter brings it."""
    first: Change | None = None
    """What is done to the base's weight before: rows of the embedding that a tied head has too."""

    @property
    def is_none(self) -> bool:
        """Whether the base's weight stays as it is."""
        return not self.parts and self.whole is None and self.resized is None

    def apply(self, weight: Tensor) -> Tensor:
        """The changed ``weight``, or what replaces it; float32 where something is changed.

        Raises:
            RuntimeError, IndexError: Shapes do not fit each other.
        """
        if self.first is not None:
            weight = self.first.apply(weight)
        if not self.parts:
            return weight
        if "rows" in self.parts:
            index = torch.tensor(self.rows, device=weight.device)
            new = max(0, max(self.rows) + 1 - weight.shape[0])
            grown = torch.cat([weight.float(), weight.new_zeros((new, *weight.shape[1:])).float()])
            return grown.index_copy(0, index, self.parts["rows"].float())
        changed = weight.float() + self.delta()
        if "magnitude" not in self.parts:
            return changed
        over = (0,) if self.transposed or "embedding_A" in self.parts else tuple(range(1, changed.dim()))
        lengths: Tensor = torch.linalg.vector_norm(changed, dim=over, keepdim=True)
        return changed.mul_(self.parts["magnitude"].float().reshape(lengths.shape) / lengths)

    def start(self) -> Tensor | None:
        """What stands in place of the base's weight, if the adapter brings it."""
        return self.whole if self.whole is not None else self.resized

    def delta(self) -> Tensor:
        """What is added to the weight, float32."""
        parts = {kind: part.float() for kind, part in self.parts.items()}
        if "bias" in parts:
            return parts["bias"] * self.scale
        if "embedding_A" in parts:
            return (parts["embedding_B"] @ parts["embedding_A"]).T * self.scale
        a, b = parts["A"], parts["B"]
        product = (b.flatten(1) @ a.flatten(1)).view(b.shape[0], *a.shape[1:])
        return (product.T if self.transposed else product) * self.scale

    def shape(self, base: tuple[int, ...], want: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what is given, added to or made of a weight of the shape ``base``.

        Of these the first that is not ``want``; empty where they do not fit each other.
        """
        start = self.start()
        if start is not None and tuple(start.shape) != want:
            return tuple(start.shape)
        if "rows" in self.parts:
            rows = tuple(self.parts["rows"].shape)
            return want if rows == (len(self.rows), *want[1:]) else rows
        with torch.device("meta"):
            parts = {kind: torch.empty(part.shape) for kind, part in self.parts.items()}
            one = replace(self, parts=parts, first=None)
            weight = torch.empty((base if self.first is None else want) if start is None else start.shape)
        try:
            # Before broadcasting hides what is too small.
            added = tuple(one.delta().shape) if one.parts else want
            return tuple(one.apply(weight).shape) if added == want else added
        except (RuntimeError, IndexError):
            return ()
