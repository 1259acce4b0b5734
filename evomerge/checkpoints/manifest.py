"""Which files of a model folder a merge wrote: only these are ever replaced or removed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from evomerge.checkpoints.files import read_json
from evomerge.errors import CheckpointError

__all__ = ["MANIFEST", "RECIPE_FILE", "FolderContent", "manifest_text", "read_folder"]

MANIFEST = "evomerge_files.json"
"""The list of the files that a merge wrote, with the size and a digest of each."""

RECIPE_FILE = "evomerge_recipe.yml"
_FORMAT = 1

_WHOLE_BYTES = 1 << 22
"""Files up to this size are digested whole, larger ones by samples: training changes every part of them."""
_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16

_FINGERPRINT = re.compile(r"# evomerge-fingerprint: ([0-9a-f]{32})\n")
_WRITTEN_WITHOUT_MANIFEST = re.compile(
    r"model(-\d{5,}-of-\d{5,})?\.safetensors|model\.safetensors\.index\.json|config\.json|README\.md|"
    r"evomerge_recipe\.yml|generation_config\.json|(video_)?preprocessor_config\.json|processor_config\.json|"
    r"image_processor.*\.json|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|"
    r"spiece\.model|sentencepiece.*|chat_template.*|additional_chat_templates"
)
_CARD_HEAD = "---\nlibrary_name: transformers\ntags:\n- merge\n- evomerge\n---\n\n# A `"
_CARD_TAIL = "\n\n## Again\n\n```bash\nevomerge merge evomerge_recipe.yml OUT_DIR\n```\n"
_SECONDS_AFTER = 5.0
"""Without a manifest, weights that are newer than the recipe beside them by more than this were changed."""


class FolderContent:
    """What a folder holds: ``written`` by a merge and unchanged since, ``changed`` since, and ``foreign``.

    ``merged``: whether a merge wrote anything there.
    """

    def __init__(self, written: Iterable[str], changed: Iterable[str], foreign: Iterable[str]) -> None:
        self.written = tuple(sorted(written))
        self.changed = tuple(sorted(changed))
        self.foreign = tuple(sorted(foreign))
        self.merged = bool(self.written or self.changed)

    @property
    def empty(self) -> bool:
        """Whether there is nothing."""
        return not (self.merged or self.foreign)


def manifest_text(folder: Path) -> str:
    """The manifest of the files in ``folder``, all of which a merge has just written.

    Raises:
        OSError: One cannot be read.
    """
    files = {file.name: _entry(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    return json.dumps({"format": _FORMAT, "files": files}, indent=2) + "\n"


def read_folder(folder: Path) -> FolderContent:
    """What ``folder`` holds. Files of a merge by an earlier release, which left no manifest, are recognised
    by their names, the fingerprint in its recipe, and the text of its model card.

    Raises:
        OSError: The folder cannot be read.
    """
    entries = {entry.name: entry for entry in folder.iterdir()}
    listed = _read_manifest(folder)
    if listed is None:
        own = {n: _is_unchanged_without_manifest(entries[n]) for n in _files_of_early_merge(folder, entries)}
    else:
        own = {n: _is_unchanged(entries[n], known) for n, known in listed.items() if n in entries}
    written = [name for name, unchanged in own.items() if unchanged]
    changed = [name for name, unchanged in own.items() if not unchanged]
    return FolderContent(written, changed, entries.keys() - set(written) - set(changed))


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Entries of the manifest, the manifest among them; None where there is none that can be read."""
    if not (folder / MANIFEST).is_file() or (folder / MANIFEST).is_symlink():
        return None
    try:
        document = read_json(folder / MANIFEST)
    except CheckpointError:
        return None
    files = document.get("files")
    if document.get("format") != _FORMAT or not isinstance(files, dict):
        return None
    return {**files, MANIFEST: None}


def _is_unchanged(file: Path, known: Any) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    return file.name == MANIFEST or bool(_entry(file) == known)


def _entry(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    state = xxhash.xxh3_128()
    with file.open("rb") as handle:
        if size <= _WHOLE_BYTES:
            state.update(handle.read())
        else:
            for part in range(_SAMPLES):
                handle.seek((size - _SAMPLE_BYTES) * part // (_SAMPLES - 1))
                state.update(handle.read(_SAMPLE_BYTES))
    return {"bytes": size, "xxh3": state.hexdigest()}


def _files_of_early_merge(folder: Path, names: Iterable[str]) -> list[str]:
    """Files that an earlier release of evomerge writes, if a merge of it is what the folder holds."""
    if _recipe_text(folder) is None:
        return []
    return [name for name in names if _WRITTEN_WITHOUT_MANIFEST.fullmatch(name)]


def _recipe_text(folder: Path) -> str | None:
    """The recipe without its fingerprint, where it has the one line that a merge writes first."""
    try:
        text = (folder / RECIPE_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = _FINGERPRINT.match(text)
    return None if found is None else text[found.end() :]


def _is_unchanged_without_manifest(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    recipe = file.with_name(RECIPE_FILE)
    if file.name == "README.md":
        text = file.read_text(encoding="utf-8", errors="replace")
        body = f"## Recipe\n\n```yaml\n{_recipe_text(file.parent)}```\n\nFingerprint of the weights: `"
        return text.startswith(_CARD_HEAD) and body in text and text.endswith(_CARD_TAIL)
    if file.suffix == ".safetensors":
        return file.stat().st_mtime <= recipe.stat().st_mtime + _SECONDS_AFTER
    return True
