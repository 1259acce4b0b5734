"""Keeps the kind of each layer of a layer-stack: sliding or full attention, with or without rope.

Many configurations state a rule (``sliding_window_pattern: 6``, ``no_rope_layer_interval: 4``) that counts
positions, so a layer in another place would become another kind of layer. transformers works the rule out
when it loads the configuration; what it then has as a list by layer is written as a list. Rules that have no
such list are found by comparing the layers of the model that transformers would build.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.engine.configuration import LayerOrigin, is_by_layer, text_sections
from evomerge.engine.model_names import ModelNames, parse_config
from evomerge.errors import RecipeError

__all__ = ["check_layer_kinds", "with_lists"]

_BY_POSITION = ("scale_attn_by_inverse_layer_idx",)
"""Settings that make a layer depend on its position, which its module does not show."""
_HINT = "Choose layers whose kinds follow the model's own order, such as whole periods of its pattern."
_SHOWN = 80


def with_lists(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """``config`` of a model with ``depth`` layers, with the lists by layer that transformers works out.

    Nothing is added where transformers does not know the model.
    """
    return copy.deepcopy(_with_lists(json.dumps(config), depth))


@functools.lru_cache(maxsize=64)
def _with_lists(text: str, depth: int) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(text)
    try:
        loaded = parse_config(config)[0].to_dict()
    except Exception:  # noqa: BLE001 (what configurations raise depends on the model)
        return config
    for path, section in text_sections(config):
        known = _at(loaded, path)
        for key, value in known.items():
            if section.get(key) is None and isinstance(value, list) and is_by_layer(key, value, depth):
                section[key] = value
    return config


def check_layer_kinds(config: Mapping[str, Any], origins: Sequence[LayerOrigin]) -> None:
    """Check that layer i of a model with ``config`` computes what the layer ``origins[i]`` did.

    Models that transformers cannot build, and layers of another class of model, are not compared.

    Raises:
        RecipeError: A layer would be of another kind, and the configuration cannot say otherwise.
    """
    text = json.dumps(config, sort_keys=True)
    sources = [json.dumps(origin.config, sort_keys=True) for origin in origins]
    if all(
        source == text and origin.index == i
        for i, (source, origin) in enumerate(zip(sources, origins, strict=True))
    ):
        return
    for _, section in text_sections(config):
        named = next((key for key in _BY_POSITION if section.get(key)), None)
        moved = next((i for i, origin in enumerate(origins) if origin.index != i), None)
        if named is not None and moved is not None:
            raise RecipeError(
                "slices",
                f"layer {origins[moved].index} would become layer {moved}, where {named} in config.json "
                "makes it compute something else",
                "Only stacks that leave each layer at its place can be made of this model.",
            )
    made = _layers(text)
    for i, (source, origin) in enumerate(zip(sources, origins, strict=True)):
        own = _layers(source)
        if (
            made is None
            or own is None
            or made[0] != own[0]
            or len(made[1]) != len(origins)
            or origin.index >= len(own[1])
        ):
            continue
        difference = _difference(own[1][origin.index], made[1][i])
        if difference is not None:
            raise RecipeError(
                "slices",
                f"layer {i} of the output would be of another kind than layer {origin.index} of its source "
                f"({difference}), and config.json of this model has no list by layer to say it",
                _HINT,
            )


@functools.lru_cache(maxsize=64)
def _layers(text: str) -> tuple[str, tuple[Mapping[str, Any], ...]] | None:
    """The class of the model, and of each layer all that tells its kind; ``None`` where that is not known."""
    config = json.loads(text)
    try:
        return ModelNames.of(config).layer_traits()
    except Exception:  # noqa: BLE001 (what models raise depends on the model)
        return None


def _difference(source: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    for key in dict.fromkeys((*source, *output)):
        if source.get(key) != output.get(key):
            return f"{key}: {source.get(key)!r:.{_SHOWN}} there, {output.get(key)!r:.{_SHOWN}} here"
    return None


def _at(config: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    part: Any = config
    for step in path:
        part = part.get(step) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}
