"""The settings of a LoRA adapter: rank and scale of each module, trained tokens, kinds that are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError

__all__ = ["check_kind", "is_listed", "scale_of", "trained_rows"]

_UNSUPPORTED = (
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
)
"""Settings of PEFT under which B A is not what is added to a weight, or not always."""
_SPLIT = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Initialisations that take B A out of the base first: the adapter belongs to what is left of it."""
_LARGEST = 1e30
_LONGEST = 500
_REPEATED = 3


def check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that the adapter adds products of two matrices to the base's weights.

    Raises:
        CheckpointError: It is of another kind.
    """
    kind = config.get("peft_type")
    if kind is None:
        raise CheckpointError(
            str(folder), "adapter_config.json has no peft_type", "Save the adapter with PEFT, or convert it."
        )
    if kind != "LORA":
        raise CheckpointError(str(folder), f"is a {kind} adapter; only LORA is supported")
    for setting in _UNSUPPORTED:
        if config.get(setting):
            raise CheckpointError(str(folder), f"{setting} is not supported")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_SPLIT):
        raise CheckpointError(
            str(folder),
            f"init_lora_weights is {start:.40}: its training began by changing the base model",
            "Save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it.",
        )


def is_listed(config: Mapping[str, Any], key: str, name: str) -> bool:
    """Whether the list ``key`` of the settings names the module of the weight ``name``."""
    given = config.get(key)
    module = "." + name.removesuffix(".weight")
    listed = given if isinstance(given, list) else []
    return any(isinstance(entry, str) and entry and module.endswith(f".{entry}") for entry in listed)


def scale_of(folder: Path, config: Mapping[str, Any], name: str) -> float:
    """What B A is multiplied with for the weight ``name``.

    Raises:
        CheckpointError: The settings give no such number.
    """
    module = name.removesuffix(".weight").removesuffix(".bias")
    rank = _setting(folder, config, ("r", "rank_pattern"), module)
    alpha = _setting(folder, config, ("lora_alpha", "alpha_pattern"), module)
    if rank <= 0:
        raise CheckpointError(str(folder), f"r is {rank:g} for {name}; it must be above 0")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def trained_rows(folder: Path, config: Mapping[str, Any], name: str, rows: int) -> tuple[int, ...]:
    """The tokens of the embedding ``name``, of ``rows`` rows, that were trained one by one.

    Rows beyond may be among them if all are, up to the last: tokens that were added.

    Raises:
        CheckpointError: The settings name none, or some that the embedding lacks.
    """
    given = config.get("trainable_token_indices")
    if isinstance(given, Mapping):
        module = name.removesuffix(".weight")
        fitting = (v for k, v in given.items() if isinstance(k, str) and f".{module}".endswith(f".{k}"))
        # A tied head is saved with the rows of the embedding, but is not listed.
        given = next(fitting, next(iter(given.values())) if len(given) == 1 else None)
    tokens = given if isinstance(given, list) else []
    whole = all(type(token) is int and token >= 0 for token in tokens)
    beyond = sorted({t for t in tokens if t >= rows}) if whole else []
    if not tokens or not whole or beyond != list(range(rows, rows + len(beyond))):
        raise CheckpointError(
            str(folder), f"trainable_token_indices names no tokens of {name}, which has {rows} rows"
        )
    return tuple(tokens)


def _setting(folder: Path, config: Mapping[str, Any], keys: tuple[str, str], module: str) -> float:
    """The rank or alpha of a module: that of the first pattern that fits it, or the one of all modules."""
    general, by_pattern = keys
    patterns = config.get(by_pattern) or {}
    if not isinstance(patterns, Mapping):
        raise CheckpointError(str(folder), f"{by_pattern} is not a mapping of modules to numbers")
    fitting = (value for pattern, value in patterns.items() if _fits(folder, pattern, module))
    value = next(fitting, config.get(general, 8))
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise CheckpointError(
            str(folder), f"{general} is {value!r:.80} for {module}, which is not a valid value"
        )
    return float(value)


def _fits(folder: Path, pattern: str, module: str) -> bool:
    # Python tries every way to divide a text among repeated parts: an untrusted pattern could take for ever.
    repeated = re.findall(r"[*+?{]", pattern)
    if len(pattern) > _LONGEST or len(repeated) > _REPEATED or re.search(r"\)[*+?{]", pattern):
        raise CheckpointError(str(folder), f"the pattern {pattern!r:.80} is too complicated")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except (re.error, RecursionError, OverflowError) as exception:
        raise CheckpointError(
            str(folder), f"the pattern {pattern!r:.80} is not a valid regular expression ({exception})"
        ) from None
