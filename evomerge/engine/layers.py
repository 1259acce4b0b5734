"""Layers of a model, found from its tensor names and configuration; there is no list of architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.engine.configuration import layer_count

__all__ = ["BESIDE", "Place", "Stacks", "comes_before_layers", "find_stacks"]

_NUMBER = re.compile(r"(?<![^.])(?:0|[1-9][0-9]{0,5})(?=\.)")
BESIDE = re.compile(r"vision|visual|image|audio|speech|encoder|qformer|resampler|perceiver|codec|mtp|depth")
"""Parts beside the stack that recipes slice: towers of other modalities, encoders, drafting heads."""
_AFTER = (
    "lm_head",
    "embed_out",
    "output_projection",
    "classifier",
    "score",
    "qa_outputs",
    "final",
    "ln_f",
    "cls.",
)
_BEFORE = ("embed", "wte", "wpe", "tok_emb", "patch", "project_in")


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: layer ``index`` of the stack ``prefix`` (``model.layers.``), and its suffix."""

    prefix: str
    index: int
    suffix: str

    @property
    def name(self) -> str:
        """The whole name of the tensor."""
        return f"{self.prefix}{self.index}{self.suffix}"


@dataclass(frozen=True)
class Stacks:
    """The runs of layers of a model: the number of layers of each, and which of them recipes slice.

    ``sliced`` is the main stack, first, and those that make up its layers with it: as deep and in the same
    module (``attentions.0``, ``layer_norm1.0``, ``ffns.0``).
    """

    depths: Mapping[str, int]
    main: str | None
    sliced: tuple[str, ...] = ()

    def place(self, name: str) -> Place | None:
        """Where ``name`` stands, or ``None`` outside all layers."""
        for match in _NUMBER.finditer(name):
            prefix = name[: match.start()]
            if prefix in self.depths:
                return Place(prefix, int(match.group()), name[match.end() :])
        return None

    @property
    def depth(self) -> int:
        """Number of layers of the main stack; 0 where there is none."""
        return self.depths[self.main] if self.main is not None else 0

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder beside the main stack."""
        return any("encoder" in p for p in self.depths if p not in self.sliced)


def find_stacks(names: Iterable[str], config: Mapping[str, Any]) -> Stacks:
    """The layer stacks among tensor ``names``: the outermost numbered parts, counted from 0 without a gap.

    The main stack has as many layers as the configuration says; of several such, or if there is none, it is
    no encoder and no tower of another modality, then the deepest, then the first by name.
    """
    indices: dict[str, dict[int, None]] = {}
    for name in names:
        match = _NUMBER.search(name)
        if match is not None:
            indices.setdefault(name[: match.start()], {})[int(match.group())] = None
    depths = {
        prefix: len(found)
        for prefix, found in sorted(indices.items())
        if sorted(found) == list(range(len(found)))
    }
    expected = layer_count(config)

    def rank(prefix: str) -> tuple[bool, bool, int, bool]:
        depth = depths[prefix]
        return depth == expected, BESIDE.search(prefix) is None, depth, prefix.endswith("layers.")

    main = max(depths, key=rank, default=None)
    if main is None:
        return Stacks(depths, None)
    beside = [p for p in depths if p != main and _module(p) == _module(main) and depths[p] == depths[main]]
    return Stacks(depths, main, (main, *beside))


def comes_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers is on the input side (embeddings), not the output side."""
    if any(word in name for word in _AFTER):
        return False
    return any(word in name for word in _BEFORE)


def _module(prefix: str) -> str:
    """The module that a stack is in: ``model.`` of ``model.layers.``."""
    return prefix[: prefix.rstrip(".").rfind(".") + 1]
