"""A LoRA adapter over a model, shown as a checkpoint of its own.

The adapted weight is W + scale * B A, computed in float32 when it is read and never written to disk (Hu et
al. 2021, arXiv:2106.09685; scale = alpha / r, or alpha / sqrt(r) if rank-stabilised, arXiv:2312.03732).
DoRA gives each of its output vectors a length of its own: m * V / |V| for V = W + scale * B A (Liu et al.
2024, arXiv:2402.09353). Convolutions of one group are products of matrices over flattened kernels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
    ".lora_A.weight": ("A", ".weight"),
    ".lora_B.weight": ("B", ".weight"),
    ".lora_B.bias": ("bias", ".bias"),
    ".lora_embedding_A": ("embedding_A", ".weight"),
    ".lora_embedding_B": ("embedding_B", ".weight"),
    ".lora_magnitude_vector": ("magnitude", ".weight"),
    ".lora_magnitude_vector.weight": ("magnitude", ".weight"),
    ".token_adapter.trainable_tokens_delta": ("rows", ".weight"),
}
"""Endings of an adapter's keys: what they hold of a tensor, and how the tensor's own name ends."""
_FACTORS = [{"A", "B"}, {"embedding_A", "embedding_B"}]
_COMPLETE = [*_FACTORS, *(factors | {"magnitude"} for factors in _FACTORS), {"rows"}]
"""What there may be of a weight."""

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


@dataclass
class _Change:
    """What the adapter says of one tensor: a part of its own, all of it, or both (embeddings)."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    whole: Tensor | None = None
    scale: float = 1.0
    transposed: bool = False
    rows: tuple[int, ...] = ()
    """Which rows are given anew, for the part of that name: single tokens of an embedding."""

    def applied(self, weight: Tensor) -> Tensor:
        """What becomes of the weight, or of what stands in its place; float32 where something is changed.

        Raises:
            RuntimeError, IndexError: Shapes do not fit each other.
        """
        if not self.parts:
            return weight
        if "rows" in self.parts:
            index = torch.tensor(self.rows, device=weight.device)
            return weight.float().index_copy(0, index, self.parts["rows"].float())
        changed = weight.float() + self.delta()
        if "magnitude" not in self.parts:
            return changed
        over = (0,) if self.transposed or "embedding_A" in self.parts else tuple(range(1, changed.dim()))
        lengths: Tensor = torch.linalg.vector_norm(changed, dim=over, keepdim=True)
        return changed.mul_(self.parts["magnitude"].float().reshape(lengths.shape) / lengths)

    def read(self, base: TensorFiles, name: str) -> Tensor:
        """The changed weight of the base's tensor ``name``."""
        return self.applied(base.read(name) if self.whole is None else self.whole)

    def delta(self) -> Tensor:
        """What is added to the weight, float32."""
        parts = {kind: part.float() for kind, part in self.parts.items()}
        if "bias" in parts:
            return parts["bias"] * self.scale
        if "embedding_A" in parts:
            return (parts["embedding_B"] @ parts["embedding_A"]).T * self.scale
        a, b = parts["A"], parts["B"]
        product = (b.flatten(1) @ a.flatten(1)).view(b.shape[0], *a.shape[1:])
        return (product.T if self.transposed else product) * self.scale


def adapted(
    base: Checkpoint, folder: Path, names_in_files: Callable[[], Mapping[str, str]] = dict
) -> Checkpoint:
    """The model that ``base`` and the PEFT adapter in ``folder`` make.

    Adapters name modules, which the base's files may call otherwise: ``names_in_files`` is asked for their
    names there if any is unknown.

    Raises:
        CheckpointError: The adapter is of another kind, for another base, or has parts that are not
            supported; they are named.
    """
    config = read_json(folder / "adapter_config.json", "Is this a LoRA adapter?")
    _refuse_other_kinds(folder, config)
    entries = [(key, tensor, *_target(key)) for key, tensor in _adapter_tensors(folder).items()]
    names = {name: _in_base(name, base) for _, _, name, _ in entries}
    if not all(name in base.tensors for name in names.values()):
        names |= {module: name for module, name in names_in_files().items() if module in names}
    changes: dict[str, _Change] = {}
    strangers: list[str] = []
    for key, tensor, module, part in entries:
        name = names[module]
        if name not in base.tensors:
            strangers.append(key)
            continue
        change = changes.setdefault(name, _Change())
        if part is None:
            change.whole = tensor
        else:
            change.parts[part] = tensor
            change.scale = _scale(folder, config, module)
            change.transposed = bool(config.get("fan_in_fan_out", False))
            if part == "rows":
                change.rows = _rows(folder, config, module, base.tensors[name])
    if strangers:
        shown = ", ".join(strangers[:_LISTED])
        raise CheckpointError(
            str(folder),
            f"{len(strangers)} tensors have no place in {base.path}: {shown}",
            "Is it for another base?",
        )
    _check_shapes(folder, changes, base.tensors)
    files = DerivedFiles(
        base.files, {name: partial(change.read, base.files, name) for name, change in changes.items()}
    )
    return Checkpoint(base.path, base.config, base.tensors, files, folders=(*base.folders, folder))


def _refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
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
    """The tensor that an entry of the adapter changes, and which part it is (``None``: all of it)."""
    name = key.removeprefix(_PREFIX)
    for ending, (part, suffix) in _PARTS.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + suffix, part
    return name.replace(".modules_to_save", "").replace(".base_layer", ""), None


def _in_base(name: str, base: Checkpoint) -> str:
    """The name in the base's files, which may lack or have the prefix of the inner model."""
    if name in base.tensors:
        return name
    return next((n for n in (name.removeprefix("model."), f"model.{name}") if n in base.tensors), name)


def _scale(folder: Path, config: Mapping[str, Any], name: str) -> float:
    module = name.removesuffix(".weight").removesuffix(".bias")
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


def _rows(folder: Path, config: Mapping[str, Any], name: str, info: TensorInfo) -> tuple[int, ...]:
    """The tokens of the embedding ``name`` that were trained one by one."""
    given = config.get("trainable_token_indices")
    if isinstance(given, Mapping):
        module = name.removesuffix(".weight")
        given = next((v for k, v in given.items() if f".{module}".endswith(f".{k}")), None)
    tokens = given if isinstance(given, list) else []
    count = info.shape[0] if info.shape else 0
    if not tokens or not all(type(token) is int and 0 <= token < count for token in tokens):
        raise CheckpointError(
            str(folder), f"trainable_token_indices names no tokens of {name}, which has {count} rows"
        )
    return tuple(tokens)


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
        if change.parts and set(change.parts) not in ([{"bias"}] if name.endswith(".bias") else _COMPLETE):
            raise CheckpointError(
                str(folder), f"the change of {name} is no product of two matrices, which is not supported"
            )
        found = _shape(change, want)
        if found != want:
            wrong.append(f"{name}: base {list(want)}, adapter {list(found)}")
    if wrong:
        raise CheckpointError(
            str(folder),
            f"{len(wrong)} tensors have another shape: {'; '.join(wrong[:_LISTED])}",
            "Is it for another base?",
        )


def _shape(change: _Change, want: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what the adapter gives, adds or makes of a weight: the first that is not ``want``."""
    if change.whole is not None and tuple(change.whole.shape) != want:
        return tuple(change.whole.shape)
    if "rows" in change.parts:
        rows = tuple(change.parts["rows"].shape)
        return want if rows == (len(change.rows), *want[1:]) else rows
    with torch.device("meta"):
        one = replace(change, parts={kind: torch.empty(part.shape) for kind, part in change.parts.items()})
        weight = torch.empty(want)
    try:
        added = tuple(one.delta().shape) if one.parts else want  # before broadcasting hides what is too small
        return tuple(one.applied(weight).shape) if added == want else added
    except (RuntimeError, IndexError):
        return ()
