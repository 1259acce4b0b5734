"""The files of a model folder; knows nothing of tensors, so that it starts fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash

from evomerge.checkpoints.formats import folder_hint
from evomerge.errors import CheckpointError

__all__ = ["find_file", "find_folder", "identity", "local_path", "read_json", "weight_files"]

MAX_JSON_BYTES = 2**28
MAX_JSON_DEPTH = 100
"""Levels: a deeper document could not be copied or written, and no configuration is."""


def local_path(text: str) -> Path:
    """``text`` as a path, with the home folder in place of ``~``.

    Raises:
        CheckpointError: It names the home folder of nobody.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CheckpointError(text, "nobody has such a home folder") from None


def find_folder(path: Path) -> bool:
    """Whether there is such a folder; a name that no file system takes is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or below a folder that may not be read
        return False


def find_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def weight_files(path: Path) -> list[Path]:
    """The weight files in use: those of the index if there is one; safetensors before ``.bin``."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = path / f"{stem}.{suffix}.index.json"
        if index.is_file():
            return _indexed_files(index)
        if (path / f"{stem}.{suffix}").is_file():
            return [path / f"{stem}.{suffix}"]
    loose = sorted(p for p in path.glob("*.safetensors") if p.is_file() and not p.name.startswith("adapter_"))
    if not loose:
        kind, hint = folder_hint(path)
        instead = f", but {kind}" if kind else ""
        raise CheckpointError(
            str(path), f"the folder holds no weights (*.safetensors or pytorch_model.bin){instead}", hint
        )
    return loose


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(str(index), "has no 'weight_map' of tensor names to file names")
    files = []
    for name in sorted(set(weight_map.values())):
        file = index.parent / name
        if Path(name).name != name or name == "..":
            raise CheckpointError(str(index), f"names the file {name!r}, which lies outside the model folder")
        if not find_file(file):
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
        if path.stat().st_size > MAX_JSON_BYTES or not path.is_file():  # a pipe would be waited for
            raise CheckpointError(str(path), "is no file, or too large for one of JSON")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(str(path), "there is no such file", hint) from None
    except (OSError, ValueError, RecursionError) as exception:
        raise CheckpointError(str(path), f"is no readable JSON ({exception})") from None
    if not isinstance(document, dict):
        raise CheckpointError(str(path), "is no JSON mapping")
    if _is_deep(document):
        raise CheckpointError(str(path), f"is nested more than {MAX_JSON_DEPTH} levels deep")
    return document


def _is_deep(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [value for values in inner for value in values]
    return bool(level)


def identity(path: Path) -> str:
    """A digest that tells whether a model folder (or a recipe) holds what it held: sizes, samples of weights.

    Reads at most some megabytes, whatever the size of the model.
    """
    if path.is_file():  # a recipe that stands for a model
        return xxhash.xxh3_128(path.read_bytes()).hexdigest()
    adapter = path / "adapter_config.json"
    is_adapter = adapter.is_file() and not (path / "config.json").is_file()
    if adapter.is_file() and not is_adapter:  # trainers leave the base's configuration beside adapters
        try:
            weight_files(path)
        except CheckpointError:
            is_adapter = True
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
