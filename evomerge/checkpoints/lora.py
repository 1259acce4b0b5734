"""A LoRA adapter over a model, shown as a checkpoint of its own.

The adapted weight is W + scale * B A, computed in float32 when it is read and never written to disk (Hu et
al. 2021, arXiv:2106.09685; scale = alpha / r, or alpha / sqrt(r) if rank-stabilised, arXiv:2312.03732).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint, TensorFiles, TensorInfo
from evomerge.checkpoints.derived import DerivedFiles
from evomerge.checkpoints.files import read_json
from evomerge.errors import CheckpointError

__all__ = ["adapted"]

_PREFIX = "base_model.model."
_LISTED = 8
_PARTS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
}


@dataclass
class _Change:
    """What the adapter says of one tensor: two factors, all of it, or both (embeddings)."""

    factors: dict[str, Tensor] = field(default_factory=dict)
    whole: Tensor | None = None
    scale: float = 1.0
    transposed: bool = False

    def delta(self) -> Tensor:
        """The change of the weight, float32."""
        if "embedding_A" in self.factors:
            return (self.factors["embedding_B"].float() @ self.factors["embedding_A"].float()).T * self.scale
        product = self.factors["B"].float() @ self.factors["A"].float()
        return (product.T if self.transposed else product) * self.scale

    def applied(self, base: TensorFiles, name: str) -> Tensor:
        """The changed weight; float32 where something is added to it."""
        weight = base.read(name) if self.whole is None else self.whole
        return weight.float() + self.delta() if self.factors else weight


def adapted(base: Checkpoint, folder: Path) -> Checkpoint:
    """The model that ``base`` and the PEFT adapter in ``folder`` make.

    Raises:
        CheckpointError: The adapter is of another kind, for another base, or has parts that are not
            supported; they are named.
    """
    config = read_json(folder / "adapter_config.json", "Is this a LoRA adapter?")
    _refuse_other_kinds(folder, config)
    changes: dict[str, _Change] = {}
    strangers: list[str] = []
    for key, tensor in _adapter_tensors(folder).items():
        name, part = _target(key)
        name = _in_base(name, base)
        if name not in base.tensors:
            strangers.append(key)
            continue
        change = changes.setdefault(name, _Change())
        if part is None:
            change.whole = tensor
        else:
            change.factors[part] = tensor
            change.scale = _scale(folder, config, name)
            change.transposed = bool(config.get("fan_in_fan_out", False))
    if strangers:
        shown = ", ".join(strangers[:_LISTED])
        raise CheckpointError(
            str(folder),
            f"{len(strangers)} tensors have no place in {base.path}: {shown}",
            "Is it for another base?",
        )
    _check_shapes(folder, changes, base.tensors)
    files = DerivedFiles(
        base.files, {name: partial(change.applied, base.files, name) for name, change in changes.items()}
    )
    return Checkpoint(base.path, base.config, base.tensors, files, folders=(*base.folders, folder))


def _refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(str(folder), f"is a {kind} adapter; only LORA is supported")
    if config.get("use_dora"):
        raise CheckpointError(str(folder), "use_dora is not supported")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise CheckpointError(str(folder), "adapters that train biases are not supported")


def _adapter_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise CheckpointError(str(file), "there is no such file", "Save the adapter as safetensors.")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, OverflowError) as exception:
        raise CheckpointError(str(file), f"is no readable safetensors file ({exception})") from None
    return tensors


def _target(key: str) -> tuple[str, str | None]:
    """The tensor that an entry of the adapter changes, and which factor it is (``None``: all of it)."""
    name = key.removeprefix(_PREFIX)
    for ending, part in _PARTS.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + ".weight", part
    return name.replace(".modules_to_save", "").replace(".base_layer", ""), None


def _in_base(name: str, base: Checkpoint) -> str:
    """The name in the base's files, which may lack or have the prefix of the inner model."""
    if name in base.tensors:
        return name
    return next((n for n in (name.removeprefix("model."), f"model.{name}") if n in base.tensors), name)


def _scale(folder: Path, config: Mapping[str, Any], name: str) -> float:
    module = name.removesuffix(".weight")
    rank = _setting(folder, config, ("r", "rank_pattern"), module)
    alpha = _setting(folder, config, ("lora_alpha", "alpha_pattern"), module)
    if rank <= 0:
        raise CheckpointError(str(folder), f"r is {rank:g} for {name}, which is no rank")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(folder: Path, config: Mapping[str, Any], keys: tuple[str, str], module: str) -> float:
    """The rank or alpha of a module: that of the first pattern that fits it, or the one of all modules."""
    general, by_pattern = keys
    patterns = config.get(by_pattern) or {}
    if not isinstance(patterns, Mapping):
        raise CheckpointError(str(folder), f"{by_pattern} is no mapping of modules to numbers")
    fitting = (value for pattern, value in patterns.items() if _fits(folder, pattern, module))
    value = next(fitting, config.get(general, 8))
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise CheckpointError(
            str(folder), f"{general} is {value!r:.80} for {module}, which is no such number"
        )
    return float(value)


def _fits(folder: Path, pattern: str, module: str) -> bool:
    # Python tries every way to divide a text among repeated parts: a stranger's pattern could take for ever.
    repeated = re.findall(r"[*+?{]", pattern)
    if len(pattern) > _LONGEST or len(repeated) > _REPEATED or re.search(r"\)[*+?{]", pattern):
        raise CheckpointError(str(folder), f"the pattern {pattern!r:.80} is too complicated")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except (re.error, RecursionError, OverflowError) as exception:
        raise CheckpointError(str(folder), f"the pattern {pattern!r:.80} is none ({exception})") from None


_LARGEST = 1e30
_LONGEST = 500
_REPEATED = 3


def _check_shapes(folder: Path, changes: Mapping[str, _Change], tensors: Mapping[str, TensorInfo]) -> None:
    wrong = []
    for name, change in changes.items():
        want = tensors[name].shape
        if change.whole is not None and (not change.factors or tuple(change.whole.shape) != want):
            found = tuple(change.whole.shape)
        elif len(change.factors) != 2 or any(f.dim() != 2 for f in change.factors.values()):
            raise CheckpointError(
                str(folder), f"the change of {name} is no product of two matrices, which is not supported"
            )
        else:
            found = tuple(_product_shape(change))
        if found != want:
            wrong.append(f"{name}: base {list(want)}, adapter {list(found)}")
    if wrong:
        raise CheckpointError(
            str(folder),
            f"{len(wrong)} tensors have another shape: {'; '.join(wrong[:_LISTED])}",
            "Is it for another base?",
        )


def _product_shape(change: _Change) -> torch.Size:
    with torch.device("meta"):
        factors = {k: torch.empty(t.shape) for k, t in change.factors.items()}
    try:
        return _Change(factors, None, 1.0, change.transposed).delta().shape
    except (RuntimeError, KeyError):
        return torch.Size()
