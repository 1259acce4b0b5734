"""The files of a PEFT adapter: its folder, its tensors, and the meaning of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoints.files import find_file
from evomerge.errors import CheckpointError, did_you_mean

__all__ = ["Entry", "adapter_folder", "read_entries"]

_WRAPPERS = re.compile(r"^(?:(?:_orig_mod|module|_fsdp_wrapped_module|base_model\.model)\.)+|^base_model\.")
_INNER_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What PEFT, torch.compile, FSDP and DDP put around a module's name."""
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|token_adapter\.trainable_tokens_delta)(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<end>weight|bias))?"
)
_KINDS = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude",
    "token_adapter.trainable_tokens_delta": "rows",
}
_COPY = re.compile(r"(?<![^.])(?:token_adapter\.)?(?:base_layer|original_module)\.")
"""Copies of the base's weights, which PEFT saves beside embeddings that were changed."""
_SHOWN = 8


@dataclass(frozen=True)
class Entry:
    """One tensor of an adapter: the weight that it belongs to, and its role there.

    ``kind`` is a part of a change (``A``, ``B``, ``bias``, ``embedding_A``, ``embedding_B``, ``magnitude``,
    ``rows``), ``whole`` for a weight that takes the place of the base's, or ``copy`` for one of the base's.
    """

    key: str
    name: str
    kind: str
    tensor: Tensor


def adapter_folder(folder: Path) -> Path:
    """The folder of the adapter that ``folder`` names: itself, or the only one below it.

    Raises:
        CheckpointError: There are several below it.
    """
    if find_file(folder / "adapter_config.json"):
        return folder
    try:
        below = sorted(p.parent for p in folder.glob("*/adapter_config.json"))
    except OSError:  # it may not be listed
        below = []
    if len(below) > 1:
        names = ", ".join(p.name for p in below[:_SHOWN])
        raise CheckpointError(
            str(folder), f"holds {len(below)} adapters ({names})", f"Name one: {folder / below[0].name}."
        )
    return below[0] if below else folder


def read_entries(folder: Path) -> list[Entry]:
    """The tensors of the adapter in ``folder``, in the order of their names.

    Raises:
        CheckpointError: The file is missing or damaged, or it holds more than one adapter.
    """
    tensors = _tensors(folder)
    adapters = dict.fromkeys(
        m["adapter"] for key in tensors if (m := _PART.fullmatch(key)) is not None and m["adapter"]
    )
    if len(adapters) > 1:
        raise CheckpointError(
            str(folder), f"holds several adapters in one file ({', '.join(adapters)})", "Save one of them."
        )
    named = next(iter(adapters), "default")
    saved = re.compile(rf"(?<![^.])modules_to_save\.(?:(?:default|{re.escape(named)})\.)?")
    return [_entry(key, tensors[key], saved) for key in tensors]


def _entry(key: str, tensor: Tensor, saved: re.Pattern[str]) -> Entry:
    name = _INNER_WRAPPERS.sub("", _WRAPPERS.sub("", key))
    part = _PART.fullmatch(name)
    if part is None:
        plain = _COPY.sub("", name)
        return Entry(key, saved.sub("", plain), "whole" if plain == name else "copy", tensor)
    kind, end = _KINDS[part["part"]], part["end"] or "weight"
    if end == "bias":
        kind = "bias" if kind == "B" else f"bias of {kind}"  # PEFT has no other
    return Entry(key, f"{part['module']}.{end}", kind, tensor)


def _tensors(folder: Path) -> Mapping[str, Tensor]:
    safe, pickled = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if find_file(safe):
        return _read_safetensors(safe)
    if find_file(pickled):
        return _read_pickled(pickled)
    near = sorted(p.name for pattern in ("*.safetensors", "*.bin") for p in folder.glob(pattern))
    raise CheckpointError(
        str(safe), "there is no such file", did_you_mean(safe.name, near) or "Save the adapter with PEFT."
    )


def _read_safetensors(file: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, OverflowError) as exception:
        raise CheckpointError(str(file), f"cannot be read as safetensors ({exception})") from None
    return tensors


def _read_pickled(file: Path) -> Mapping[str, Tensor]:
    """A pickled file of tensors, read without unpickling anything but tensors."""
    import pickle

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            str(file),
            "holds more than tensors, and reading it would run code from the file",
            "Convert it to safetensors where you trust it.",
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError) as exception:
        raise CheckpointError(str(file), f"is not a readable file of weights ({exception})") from None
    if not isinstance(loaded, dict) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in loaded.items()
    ):
        raise CheckpointError(str(file), "is not a mapping of names to tensors")
    return loaded
