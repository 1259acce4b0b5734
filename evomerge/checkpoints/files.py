"""The files of a model folder; imports nothing heavy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import xxhash

from evomerge.checkpoints.formats import folder_hint
from evomerge.errors import CheckpointError

__all__ = [
    "find_file",
    "find_folder",
    "identity",
    "local_path",
    "read_json",
    "recode",
    "unread_weights",
    "weight_files",
]

MAX_JSON_BYTES = 2**28
MAX_JSON_DEPTH = 100
"""Levels of nesting; a deeper document could not be copied or written."""


def local_path(text: str) -> Path:
    """``text`` as a path, with the home folder in place of ``~``.

    Raises:
        CheckpointError: It names a home folder that does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CheckpointError(text, "there is no such home folder") from None


def find_folder(path: Path) -> bool:
    """Whether there is such a folder; False for names that no file system accepts."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or below a folder that may not be read
        return False


def find_file(path: Path) -> bool:
    """Whether there is such a file; False for names that no file system accepts."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def closed_folder(path: Path) -> Path | None:
    """The first folder above ``path`` that this user may not enter, so that ``path`` cannot be checked."""
    above = reversed(path.absolute().parents)
    return next((p for p in above if not os.access(p, os.X_OK) and find_folder(p)), None)


def weight_files(path: Path) -> list[Path]:
    """The weight files in use: those that transformers reads of a folder with several sets of weights.

    One file comes before an index, safetensors before ``.bin``; a file that config.json names before both.
    A folder with neither is read for what other safetensors it has.

    Raises:
        CheckpointError: There are none, or an index names files that are missing.
    """
    named = _named_file(path)
    sets = _weight_sets(path)
    if named is not None or sets:
        first = named if named is not None else sets[0]
        return _indexed_files(first) if first.name.endswith(".index.json") else [first]
    loose = sorted(p for p in path.glob("*.safetensors") if p.is_file() and not p.name.startswith("adapter_"))
    loose = [p for p in loose if not p.name.startswith("consolidated")] or loose  # the same, in other names
    if not loose:
        kind, hint = folder_hint(path)
        instead = f", but {kind}" if kind else ""
        raise CheckpointError(
            str(path), f"the folder holds no weights (*.safetensors or pytorch_model.bin){instead}", hint
        )
    return loose


def unread_weights(path: Path) -> str | None:
    """A second set of weights in a folder, which is not read; ``None`` if there is none that could be."""
    read = set(weight_files(path))
    for other in _weight_sets(path):
        try:
            files = _indexed_files(other) if other.name.endswith(".index.json") else [other]
        except CheckpointError:  # left over from weights that are gone
            continue
        if not read & set(files) and {f.suffix for f in files} == {f.suffix for f in read}:
            return other.name
    return None


_WEIGHTS_FIELD = "transformers_weights"
"""Of configurations: the file with the weights, where it has another name."""


def _named_file(path: Path) -> Path | None:
    """The file of weights that config.json names.

    Raises:
        CheckpointError: It is missing, or lies outside the folder.
    """
    config = path / "config.json"
    name = read_json(config).get(_WEIGHTS_FIELD) if find_file(config) else None
    if name is None:
        return None
    if not isinstance(name, str) or Path(name).name != name or not find_file(path / name):
        raise CheckpointError(str(config), f"{_WEIGHTS_FIELD} names {name!r}: there is no such file")
    return path / name


def _weight_sets(path: Path) -> list[Path]:
    """Files and indices of weights under their usual names; transformers reads the first."""
    names = [
        name
        for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin"))
        for name in (f"{stem}.{suffix}", f"{stem}.{suffix}.index.json")
    ]
    return [path / name for name in names if find_file(path / name)]


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(str(index), "has no 'weight_map' of tensor names to file names")
    names = sorted(set(weight_map.values()))
    outside = next((name for name in names if Path(name).name != name or name == ".."), None)
    if outside is not None:
        raise CheckpointError(str(index), f"names the file {outside!r}, which lies outside the model folder")
    missing = [name for name in names if not find_file(index.parent / name)]
    if len(missing) == 1:
        raise CheckpointError(
            str(index), f"names the file {missing[0]!r}, which is missing", "Download it again."
        )
    if missing:
        shown = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
        reason = f"names {len(missing)} files that are missing ({shown})"
        raise CheckpointError(str(index), reason, "Download them again.")
    return [index.parent / name for name in names]


_LISTED = 4


def read_json(path: Path, hint: str = "") -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES or not path.is_file():  # a pipe would be waited for
            raise CheckpointError(str(path), "is not a file, or is too large for JSON")
        document = json.loads(path.read_bytes())  # in UTF-8 or UTF-16, with or without a byte-order mark
    except FileNotFoundError:
        raise CheckpointError(str(path), "there is no such file", hint) from None
    except (OSError, ValueError, RecursionError) as exception:
        raise CheckpointError(str(path), f"cannot be read as JSON ({exception})") from None
    if not isinstance(document, dict):
        raise CheckpointError(str(path), "is not a JSON mapping")
    if _is_deep(document):
        raise CheckpointError(str(path), f"is nested more than {MAX_JSON_DEPTH} levels deep")
    return document


def recode(path: Path) -> str | None:
    """The text of a JSON file that other programs cannot read: in UTF-16, or with a byte-order mark.

    ``None`` for every other file.
    """
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.read(4))
    if path.suffix != ".json" or encoding == "utf-8":
        return None
    try:
        return path.read_text(encoding=encoding)
    except ValueError:  # it is not JSON
        return None


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
