"""Layers of a model, found from its tensor names and configuration; there is no list of architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LAYER_COUNT_KEYS", "Place", "Stacks", "find_stacks"]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
LAYER_COUNT_KEYS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_decoder_layers",
    "decoder_layers",
)
"""Where configurations keep the number of layers of the main stack, the most usual first."""
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

    def at(self, index: int) -> Place:
        """The same tensor of another layer."""
        return Place(self.prefix, index, self.suffix)


@dataclass(frozen=True)
class Stacks:
    """The runs of layers of a model: the number of layers of each, and which of them recipes slice."""

    depths: Mapping[str, int]
    main: str | None

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


def find_stacks(names: Iterable[str], config: Mapping[str, Any]) -> Stacks:
    """The layer stacks among tensor ``names``: the outermost numbered parts, counted from 0 without a gap.

    The main stack has as many layers as the configuration says; several such, or none: the deepest, then the
    first by name.
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
    fitting = [p for p in depths if depths[p] == expected] or list(depths)
    main = max(fitting, key=lambda p: (depths[p], p.endswith("layers."), "decoder" in p), default=None)
    return Stacks(depths, main)


def layer_count(config: Mapping[str, Any]) -> int | None:
    """Layers of the main stack as the configuration says, nested text configurations included."""
    for part in (config, config.get("text_config") or {}, config.get("decoder") or {}):
        for key in LAYER_COUNT_KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def comes_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers is on the input side (embeddings), not the output side."""
    if any(word in name for word in _AFTER):
        return False
    return any(word in name for word in _BEFORE)
