"""What configurations say of layers and tied embeddings, and what a layer-stack changes in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "LayerOrigin",
    "is_by_layer",
    "is_tied",
    "layer_count",
    "resize",
    "resize_module",
    "text_parts",
    "text_sections",
]

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
_DECODER_COUNTS = ("num_decoder_layers", "decoder_layers")
_ENCODER_COUNTS = ("num_encoder_layers", "encoder_layers")
"""What configurations call the number of layers, the most usual first."""
_BESIDE = re.compile(r"vision|visual|image|audio|speech|encoder|qformer|resampler|perceiver|codec|depth")
"""Parts of a configuration that describe something else than the main stack."""
_NOT_BY_LAYER = re.compile(r"token|architectures|multiplier|label|language")
_INDICES = re.compile(r"layer|idx|indices")
_FIRST = re.compile(r"first_k|num_dense_layers")
_INDEX = re.compile(r"[0-9]{1,6}")
_LONGEST_RUN = 100_000
_LAST = re.compile(r"layer.*(end|last)|(end|last).*layer")


@dataclass(frozen=True)
class LayerOrigin:
    """The layer that an output layer comes from: layer ``index`` of the model with ``config``."""

    config: Mapping[str, Any]
    index: int


def text_parts(config: Mapping[str, Any]) -> list[Any]:
    """The configuration and those nested in it that describe the text decoder, outermost first."""
    return [part for _, part in _parts(config)]


def text_sections(config: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """``text_parts``, each with its path in the configuration."""
    return list(_parts(config))


def is_by_layer(key: str, value: Sequence[Any], depth: int) -> bool:
    """Whether the list ``value`` of a setting says something of each of ``depth`` layers, or names some."""
    if _NOT_BY_LAYER.search(key):
        return False
    return len(value) == depth or bool(_INDICES.search(key) and _is_indices(value, depth, len(value)))


def layer_count(config: Mapping[str, Any]) -> int | None:
    """Layers of the main stack as the configuration says, nested text configurations included."""
    for part in text_parts(config):
        for key in (*_DECODER_COUNTS, *_COUNTS):
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """Whether output embeddings are those of the input; ``None`` where the model decides."""
    for part in text_parts(config):
        if isinstance(part.get("tie_word_embeddings"), bool):
            return bool(part["tie_word_embeddings"])
    return None


def resize(config: dict[str, Any], depth: int, origins: Sequence[LayerOrigin], *, has_encoder: bool) -> None:
    """Changes ``config``, of a model with ``depth`` layers, into that of the layers ``origins``, in place.

    The counts of layers, and whatever is said layer by layer: lists with an entry for each, strings with a
    letter for each, run lengths, lists of the layers of some kind, mappings from layers to settings, how many
    come first or which is the last of some kind. With ``has_encoder`` the encoder keeps its layers.
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
    if not counted:  # transformers omits defaults from nested configurations
        parts[-1][1][_COUNTS[0]] = len(origins)


def resize_module(config: dict[str, Any], depth: int, new: int) -> bool:
    """Changes the number of layers of a module besides the main one, in place; False where it is ambiguous.

    It is clear where exactly one number in the configuration counts ``depth`` layers outside the text
    decoder.
    """
    keys = (*_COUNTS, *_ENCODER_COUNTS, "depth")
    text = [id(part) for part in text_parts(config)[1:]]
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
    if isinstance(value, str) and len(value) == depth and "pattern" in key:
        return "".join((own or value)[min(index, len(own or value) - 1)] for own, index in origins)
    if isinstance(value, int) and value == depth - 1 and _LAST.search(key):
        return len(origins) - 1
    if isinstance(value, int) and not isinstance(value, bool) and _FIRST.search(key):
        early = [index < own for own, index in origins]
        return sum(early) if early == sorted(early, reverse=True) else value
    if isinstance(value, dict) and _is_indices(
        [int(k) for k in value if _INDEX.fullmatch(k)], depth, len(value)
    ):
        return {str(i): own[str(index)] for i, (own, index) in enumerate(origins) if str(index) in own}
    if isinstance(value, list):
        return _list_by_layer(key, value, depth, origins)
    return value


def _list_by_layer(key: str, value: list[Any], depth: int, origins: Sequence[tuple[Any, int]]) -> list[Any]:
    if _is_runs(value) and _unrolled_size(value) == depth:
        if all(_is_runs(own) and index < _unrolled_size(own) <= _LONGEST_RUN for own, index in origins):
            return [[[_unroll(own)[index]], 1] for own, index in origins]
        return value
    if _INDICES.search(key) and _is_indices(value, depth, len(value)):
        return [i for i, (own, index) in enumerate(origins) if index in own]
    if len(value) == depth:
        return [(own or value)[min(index, len(own or value) - 1)] for own, index in origins]
    return value


def _is_indices(value: Sequence[Any], depth: int, count: int) -> bool:
    """Whether these are ``count`` layers, each named once and in order."""
    whole = all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < depth for v in value)
    return 0 < len(value) == count and whole and sorted(set(value)) == list(value)


def _is_runs(value: Sequence[Any]) -> bool:
    """Whether it reads ``[[["global", "local"], 12]]``: kinds of layers in turn, so many times."""
    return all(
        isinstance(v, list) and len(v) == 2 and isinstance(v[0], list) and isinstance(v[1], int)
        for v in value
    )


def _unrolled_size(runs: Sequence[Any]) -> int:
    return sum(len(kinds) * max(0, times) for kinds, times in runs)


def _unroll(runs: Sequence[Any]) -> list[Any]:
    return [kind for kinds, times in runs for _ in range(times) for kind in kinds]
