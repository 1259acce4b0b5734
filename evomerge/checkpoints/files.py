"""The files of a model folder; knows nothing of tensors, so that it starts fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash

from evomerge.errors import CheckpointError

__all__ = ["identity", "read_json", "weight_files"]


def weight_files(path: Path) -> list[Path]:
    """The weight files in use: those of the index if there is one; safetensors before ``.bin``."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = path / f"{stem}.{suffix}.index.json"
        if index.is_file():
            return _indexed_files(index)
        if (path / f"{stem}.{suffix}").is_file():
            return [path / f"{stem}.{suffix}"]
    loose = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("adapter_"))
    if not loose:
        hint = (
            "It holds a LoRA adapter: name it as base_model+adapter."
            if (path / "adapter_config.json").is_file()
            else ""
        )
        raise CheckpointError(
            str(path), "the folder holds no weights (*.safetensors or pytorch_model.bin)", hint
        )
    return loose


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(str(index), "has no 'weight_map' of tensor names to file names")
    files = []
    for name in sorted(set(weight_map.values())):
        file = index.parent / name
        if Path(name).name != name:
            raise CheckpointError(str(index), f"names the file {name!r}, which lies outside the model folder")
        if not file.is_file():
            raise CheckpointError(
                str(index), f"names the file {name!r}, which is missing", "Download it again."
            )
        files.append(file)
    return files


def read_json(path: Path, hint: str = "") -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(str(path), "there is no such file", hint) from None
    except (OSError, ValueError, RecursionError) as exception:
        raise CheckpointError(str(path), f"is no readable JSON ({exception})") from None
    if not isinstance(document, dict):
        raise CheckpointError(str(path), "is no JSON mapping")
    return document


def identity(path: Path) -> str:
    """A digest that tells whether a model folder (or a recipe) holds what it held: sizes, samples of weights.

    Reads at most some megabytes, whatever the size of the model.
    """
    if path.is_file():  # a recipe that stands for a model
        return xxhash.xxh3_128(path.read_bytes()).hexdigest()
    adapter = path / "adapter_config.json"
    is_adapter = adapter.is_file() and not (path / "config.json").is_file()
    state = xxhash.xxh3_128((adapter if is_adapter else path / "config.json").read_bytes())
    for file in sorted(path.glob("adapter_model.*")) if is_adapter else weight_files(path):
        size = file.stat().st_size
        state.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as handle:
            for part in range(_IDENTITY_PARTS):
                handle.seek(max(0, size - _IDENTITY_BYTES) * part // (_IDENTITY_PARTS - 1))
                state.update(handle.read(_IDENTITY_BYTES))
    return state.hexdigest()


_IDENTITY_PARTS = 16
_IDENTITY_BYTES = 1 << 16
