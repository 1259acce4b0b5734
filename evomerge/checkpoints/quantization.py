"""Whether the weights of a model are quantized, which config.json does not always say.

The signs are what the libraries write: settings in configurations, a file beside config.json, and tensors
that hold codes or what is needed to decode them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoints.checkpoint import DTYPES, Checkpoint, TensorInfo, dtype_name
from evomerge.checkpoints.files import find_file, read_json
from evomerge.errors import CheckpointError

__all__ = ["Quantization", "quantization_in_config", "quantization_of", "unused_quantization_file"]

_KEYS = ("quantization_config", "compression_config")
"""Of configurations: as transformers and older releases of compressed-tensors call it."""
_METHOD_KEYS = ("quant_method", "quant_algo", "quant_type", "format", "mode")
_FILES = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": "",
    "quanto_qmap.json": "quanto",
}
"""Side files, and their quantization method where they do not state it."""
_DEPTH = 4
_SCALES_ALONE = tuple(DTYPES[name] for name in ("F8_E8M0",) if name in DTYPES)
"""Dtypes that only quantization uses."""
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALE = re.compile(r"scale|amax|(^|[._])(SCB|zeros?|biases|quant_map|tables)($|[._])")

_COMPANIONS: tuple[tuple[str, frozenset[str]], ...] = (
    ("gptq", frozenset({"qweight", "g_idx"})),
    ("gptq or awq", frozenset({"qweight", "qzeros"})),
    ("gptq or awq", frozenset({"qweight", "scales"})),
    ("exl2", frozenset({"q_weight", "q_scale"})),
    ("exl3", frozenset({"trellis"})),
    ("compressed-tensors", frozenset({"weight_packed"})),
    ("bitsandbytes 4 bit", frozenset({"weight.quant_map"})),
    ("bitsandbytes 4 bit", frozenset({"weight.absmax"})),
    ("bitsandbytes 8 bit", frozenset({"weight_format"})),
    ("bitsandbytes 8 bit", frozenset({"SCB"})),
    ("hqq", frozenset({"W_q"})),
    ("aqlm", frozenset({"codes", "codebooks"})),
    ("quip", frozenset({"Qidxs"})),
    ("vptq", frozenset({"indices", "centroids"})),
    ("vptq", frozenset({"indices", "centroids.weight"})),
    ("spqr", frozenset({"dense_weights", "row_offsets"})),
    ("quanto", frozenset({"weight._data", "weight._scale"})),
    ("torchao", frozenset({"weight_qdata"})),
    ("torchao", frozenset({"_weight_qdata"})),
    ("torchao", frozenset({"weight:qdata"})),
    ("eetq", frozenset({"weight", "weight_scales"})),
    ("mlx", frozenset({"weight", "scales", "biases"})),
    ("higgs", frozenset({"weight", "tables"})),
    ("marlin", frozenset({"B", "s"})),
    ("fp8 with block scales", frozenset({"weight", "weight_scale_inv"})),
    ("nvfp4", frozenset({"weight", "weight_scale_2"})),
)
"""Formats by what stands in a module; the first that fits. At least one of the tensors holds codes."""
_STACKED = re.compile(r"(.+)_(blocks|scales|scale_inv|scale|qdata|packed)$")
"""Weights of experts stacked in one tensor: ``experts.gate_up_proj_blocks``."""
_STATE = ("weight.quant_state.", "weight.nested_absmax", "quant_state.")


@dataclass(frozen=True)
class Quantization:
    """How the weights of a model are quantized.

    ``sign`` is a tensor that shows it, empty where only the configuration says so.
    """

    method: str
    sign: str = ""


def quantization_of(checkpoint: Checkpoint) -> Quantization | None:
    """The quantization of ``checkpoint``; ``None`` if its weights are not quantized.

    Integers that are not weights (positions, masks) are not a sign, nor are 8-bit floats without scales.
    """
    method, found = quantization_in_config(checkpoint.config), _in_tensors(checkpoint.tensors)
    if found is None:
        return Quantization(method) if method is not None else None
    name, tensor = found
    sign = f"{tensor} is {dtype_name(checkpoint.tensors[tensor].dtype)}"
    file, stated = _side_file(checkpoint.path) or ("", "")
    if file:
        sign = f"{sign}, and there is {file}"
    return Quantization(method or stated or name, sign)


def quantization_in_config(config: Mapping[str, Any]) -> str | None:
    """The method that a configuration or a part of it states; ``None`` if it states none."""
    for part in _sections(config, _DEPTH):
        for key in _KEYS:
            settings = part.get(key)
            if isinstance(settings, Mapping) and settings:
                return _method_name(settings, "compressed-tensors" if key.startswith("compression") else "")
            if settings and isinstance(settings, str):
                return settings
        settings = part.get("quantization")  # of MLX; others may mean something else by it
        if isinstance(settings, Mapping) and {"bits", "group_size", *_METHOD_KEYS} & set(settings):
            return _method_name(settings, "mlx")
    return None


def _method_name(settings: Mapping[str, Any], kind: str) -> str:
    """The method that ``settings`` state, with ``kind`` in front where they do not name it."""
    method = _method(settings)
    if kind and kind not in method:
        return f"{kind} {method}".rstrip()
    return method or "unknown method"


def unused_quantization_file(checkpoint: Checkpoint) -> str | None:
    """A side file of quantization beside weights that are not quantized."""
    found = _side_file(checkpoint.path)
    return found[0] if found is not None and found[1] and _in_tensors(checkpoint.tensors) is None else None


def _sections(config: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values() if depth else ():
        if isinstance(value, Mapping):
            yield from _sections(value, depth - 1)


def _method(settings: Mapping[str, Any]) -> str:
    for key in _METHOD_KEYS:
        value = settings.get(key)
        if value and isinstance(value, str | int):
            return str(value)
    if "group_size" in settings and "bits" in settings:
        return f"{settings['bits']} bit"
    return ""


def _side_file(folder: Path) -> tuple[str, str] | None:
    """The side file of quantization in ``folder``, and the method that it states."""
    for name, kind in _FILES.items():
        if not find_file(folder / name):
            continue
        try:
            settings = read_json(folder / name)
        except CheckpointError:  # it is known by its name
            return name, kind
        inner = settings.get("quantization")
        algorithm = _method(inner if isinstance(inner, Mapping) else settings)
        bits = settings.get("bits", settings.get("w_bit"))
        words = [kind if kind.lower() not in algorithm.lower() else "", algorithm]
        words += [f"{bits} bit"] if isinstance(bits, int) and "bit" not in algorithm else []
        return name, " ".join(word for word in words if word)
    return None


def _in_tensors(tensors: Mapping[str, TensorInfo]) -> tuple[str, str] | None:
    """The format that the tensors are in, and one of them that shows it."""
    codes = {name: info for name, info in tensors.items() if _may_be_codes(info)}
    if not codes:
        return None
    beside: dict[str, set[str]] = {_module(name): set() for name in codes}
    for name in tensors:
        for module in _modules(name):
            if module in beside:
                beside[module].add(name[len(module) + 1 :] if module else name)
    for name, info in codes.items():
        found = _format(name, info, beside[_module(name)])
        if found is not None:
            return found, name
    return None


def _may_be_codes(info: TensorInfo) -> bool:
    if info.dtype in (*_FLOAT8, *_SCALES_ALONE):
        return True
    return not info.dtype.is_floating_point and not info.dtype.is_complex and info.dtype != torch.bool


def _modules(name: str) -> Iterator[str]:
    """The modules that a tensor may belong to: names of quantization states have dots of their own."""
    for _ in range(3):
        name = name.rpartition(".")[0]
        yield name
        if not name:
            return


def _module(name: str) -> str:
    """The module of a tensor that may hold codes."""
    for mark in (".weight.", ".quant_state."):
        if mark in name:
            return name[: name.rindex(mark)]
    return name.rpartition(".")[0]


def _format(name: str, info: TensorInfo, beside: Set[str]) -> str | None:
    """The format of which ``name`` is a part, by what stands beside it in its module."""
    own = name[len(_module(name)) :].removeprefix(".")
    if info.dtype in _SCALES_ALONE:
        return "fp8 with scales"
    if own.startswith(_STATE):
        return "bitsandbytes 4 bit"
    stacked = _STACKED.match(own)
    if stacked is not None and f"{stacked[1]}_blocks" in beside and f"{stacked[1]}_scales" in beside:
        return "mxfp4"
    for method, members in _COMPANIONS:
        if members <= beside and (own in members or _is_weight(own)):
            return method
    if not _is_weight(own):
        return None
    stem = own.removesuffix("weight").rstrip("._")
    scales = [other for other in beside if other != own and other.startswith(stem) and _SCALE.search(other)]
    if info.dtype in _FLOAT8:
        return f"{_kind(info)} with scales" if scales else None
    if len(info.shape) < 2 and not scales:
        return None
    return f"{_kind(info)} with scales" if scales else f"codes of {dtype_name(info.dtype)}"


def _is_weight(own: str) -> bool:
    return own.endswith(("weight", "_proj", "_packed", "qdata")) or own in ("w1", "w2", "w3")


def _kind(info: TensorInfo) -> str:
    return "fp8" if info.dtype in _FLOAT8 else dtype_name(info.dtype)
