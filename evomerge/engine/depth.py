"""Configurations and the number of layers: what they say of it, and what a layer-stack changes in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Origin", "layer_count", "resize", "resize_module"]

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
_DECODER_COUNTS = ("num_decoder_layers", "decoder_layers")
_ENCODER_COUNTS = ("num_encoder_layers", "encoder_layers")
"""What configurations call the number of layers, the most usual first."""
_BESIDE = re.compile(r"vision|visual|image|audio|speech|encoder|qformer|resampler|perceiver|codec|depth")
"""Parts of a configuration that describe something else than the main stack."""
_NOT_BY_LAYER = re.compile(r"token|architectures|multiplier|label|language")
_INDICES = re.compile(r"layer|idx|indices")


@dataclass(frozen=True)
class Origin:
    """Where an output layer comes from: layer ``index`` of the model with ``config``."""

    config: Mapping[str, Any]
    index: int


def layer_count(config: Mapping[str, Any]) -> int | None:
    """Layers of the main stack as the configuration says, nested text configurations included."""
    for _, part in _parts(config):
        for key in (*_DECODER_COUNTS, *_COUNTS):
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def resize(config: dict[str, Any], depth: int, origins: Sequence[Origin], *, has_encoder: bool) -> None:
    """Changes ``config``, of a model with ``depth`` layers, into that of the layers ``origins``, in place.

    The counts of layers, and whatever has one entry per layer: lists, strings with a letter per layer,
    run lengths, and lists of the layers that are of some kind. With ``has_encoder`` the encoder keeps its
    layers.
    """
    parts = list(_parts(config))
    counted = False
    for path, part in parts:
        for key in _count_keys(part, has_encoder=has_encoder):
            if part.get(key) == depth:
                part[key] = len(origins)
                counted = True
        for key, value in list(part.items()):
            if not _NOT_BY_LAYER.search(key):
                part[key] = _by_layer(
                    key, value, depth, [(_at(o.config, path, key, value), o.index) for o in origins]
                )
    if not counted:  # transformers leaves out of nested configurations what is as usual
        parts[-1][1][_COUNTS[0]] = len(origins)


def resize_module(config: dict[str, Any], depth: int, new: int) -> bool:
    """Changes the count of layers of a module besides the main one, in place; False where it is not plain.

    It is plain where one number in the configuration counts ``depth`` layers outside the text decoder.
    """
    keys = (*_COUNTS, *_ENCODER_COUNTS, "depth")
    text = [id(part) for _, part in _parts(config)][1:]
    sections = [config, *(v for v in config.values() if isinstance(v, dict) and id(v) not in text)]
    found = [(section, key) for section in sections for key in keys if section.get(key) == depth]
    if len(found) != 1:
        return False
    section, key = found[0]
    section[key] = new
    return True


def _parts(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The configuration and those nested in it that describe the text decoder, each with its path."""
    yield path, config
    for key, value in config.items():
        nested = key.endswith("config") or key == "decoder"
        if nested and isinstance(value, dict) and not _BESIDE.search(key):
            yield from _parts(value, (*path, key))


def _count_keys(part: Mapping[str, Any], *, has_encoder: bool) -> tuple[str, ...]:
    if not has_encoder:
        return (*_COUNTS, *_DECODER_COUNTS, *_ENCODER_COUNTS)
    # Beside an encoder, num_layers and num_hidden_layers are often the encoder's.
    return _DECODER_COUNTS if any(key in part for key in _DECODER_COUNTS) else _COUNTS


def _at(config: Mapping[str, Any], path: Sequence[str], key: str, default: Any) -> Any:
    """What ``config`` has at ``path`` and ``key``; ``default`` where that is nothing of the same kind."""
    part: Any = config
    for step in path:
        part = part.get(step) if isinstance(part, Mapping) else None
    value = part.get(key) if isinstance(part, Mapping) else None
    return value if isinstance(value, type(default)) else default


def _by_layer(key: str, value: Any, depth: int, origins: Sequence[tuple[Any, int]]) -> Any:
    """``value`` for the layers ``origins`` (each its model's own value, and its index), if it is by layer."""
    if isinstance(value, str):
        if len(value) != depth or "pattern" not in key:
            return value
        return "".join(own[min(index, len(own) - 1)] for own, index in origins)
    if not isinstance(value, list) or not value:
        return value
    if _is_runs(value):
        if len(_unrolled(value)) != depth:
            return value
        return [[[_unrolled(own)[index]], 1] for own, index in origins]
    if len(value) == depth:
        return [own[min(index, len(own) - 1)] for own, index in origins]
    if _INDICES.search(key) and _is_indices(value, depth):
        return [i for i, (own, index) in enumerate(origins) if index in own]
    return value


def _is_indices(value: Sequence[Any], depth: int) -> bool:
    whole = all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < depth for v in value)
    return whole and sorted(set(value)) == list(value)


def _is_runs(value: Sequence[Any]) -> bool:
    """Whether it reads ``[[["global", "local"], 12]]``: kinds of layers in turn, so many times."""
    return all(
        isinstance(v, list) and len(v) == 2 and isinstance(v[0], list) and isinstance(v[1], int)
        for v in value
    )


def _unrolled(runs: Sequence[Any]) -> list[Any]:
    return [kind for kinds, times in runs for _ in range(times) for kind in kinds]
