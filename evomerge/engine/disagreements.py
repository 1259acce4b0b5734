"""Warnings where configurations differ in what changes the computation: the output has only one of them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.model_names import parse_config

__all__ = ["config_warnings"]

_MATTERS = re.compile(
    r"rope|rotary|theta|(^|_)act(ivation)?(_|$)|_act\b|eps|epsilon|heads|head_dim|max_(position|seq)|n_positions|n_ctx"
    r"|sliding|window|softcap|_bias|bias_|multiplier|scale|scaling|norm|^model_type$|layer_types|residual|alibi"
    r"|experts_per_tok|top_?k|router|parallel_attn|temperature|qk_|clip"
)
"""Settings that change what a model computes from the same weights."""
_IS_SILENT = re.compile(
    r"initializer|init_|dropout|drop_|pdrop|token|loss|router_(aux|z)|jitter|use_cache|output_|tie_|return_|label"
    r"|remove_invalid|training|id2|2id|_attn_implementation|gradient"
)
"""Of these, settings that only matter in training or generation."""
_SHOWN = 60


def config_warnings(checkpoints: Mapping[str, Checkpoint], config_source: str) -> list[str]:
    """One sentence for each setting in which models differ from ``config_source``, whose value is kept.

    The configurations are compared as transformers loads them, so that a default that is left out equals one
    that is spelled out; as they stand where transformers does not know the model.
    """
    own = json.dumps(checkpoints[config_source].config, sort_keys=True)
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    for model, checkpoint in checkpoints.items():
        other = json.dumps(checkpoint.config, sort_keys=True)
        if not checkpoint.config or other == own:
            continue
        for field, (kept, lost) in _differences(own, other).items():
            found.setdefault(field, (kept, {}))[1][model] = lost
    return [
        f"the models differ in {field}: {config_source} has {_text(kept)}, "
        + ", ".join(f"{model} {_text(value)}" for model, value in lost.items())
        + f". The output has that of {config_source}."
        for field, (kept, lost) in found.items()
    ]


@functools.lru_cache(maxsize=64)
def _differences(own: str, other: str) -> dict[str, tuple[Any, Any]]:
    mine, theirs = _settings(own), _settings(other)
    both = [key for key in mine if key in theirs]
    if mine.get("model_type") != theirs.get("model_type"):  # settings that one of them does not know
        both += [key for key in (*mine, *theirs) if (key in mine) != (key in theirs) and "." not in key]
    return {
        key: (mine.get(key), theirs.get(key))
        for key in dict.fromkeys(both)
        if _plain(mine.get(key)) != _plain(theirs.get(key))
    }


@functools.lru_cache(maxsize=64)
def _settings(text: str) -> dict[str, Any]:
    """What matters of a configuration, by dotted name; of a model of several towers its text decoder first.

    So a language model alone is compared with the decoder of a vision-language model.
    """
    config = json.loads(text)
    try:
        parsed = parse_config(config)[0]
        whole, decoder = parsed.to_dict(), parsed.get_text_config(decoder=True).to_dict()
    except Exception:  # noqa: BLE001 (what configurations raise depends on the model)
        return _that_matter(config)
    towers = {
        key: value for key, value in whole.items() if isinstance(value, Mapping) and key in parsed.sub_configs
    }
    beside = {
        key: value for key, value in towers.items() if value.get("model_type") != decoder.get("model_type")
    }
    return _that_matter({**decoder, **beside})


def _that_matter(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in _leaves(config)
        if _MATTERS.search(name) and not _IS_SILENT.search(name)
    }


def _leaves(node: Mapping[str, Any], place: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*place, str(key)))
        else:
            yield ".".join((*place, str(key))), value


def _plain(value: Any) -> Any:
    """Values with the same meaning made equal: ``null``, false and empty are one."""
    is_nothing = value is None or value is False or value in ({}, [])
    return None if is_nothing else value


def _text(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
