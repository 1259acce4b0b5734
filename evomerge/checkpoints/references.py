"""Model references: ``model[@revision][+lora[@revision]]``, where ``model`` is a local folder or a hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoints.files import closed_folder, find_file, find_folder, local_path
from evomerge.checkpoints.formats import file_hint
from evomerge.errors import CheckpointError, did_you_mean

__all__ = [
    "SMALL_FILES",
    "Reference",
    "files_on_hub",
    "hub_error",
    "local_folder",
    "locate",
    "parse_reference",
    "parse_source",
    "settings_folder",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.md", "LICENSE*")
"""What a merge needs of a hub repository besides weights."""


@dataclass(frozen=True)
class Reference:
    """A parsed model reference; equal by value. That of an adapter over a stage has no ``model``."""

    model: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    def recipe_file(self, folders: Sequence[Path] = (Path(),)) -> Path | None:
        """The recipe file, where the reference names a recipe in place of a model."""
        path = local_path(self.model)
        if path.suffix not in (".yml", ".yaml"):
            return None
        files = [path] if path.is_absolute() else [folder / path for folder in folders]
        return next((file.resolve() for file in files if find_file(file)), None)

    def __str__(self) -> str:
        text = f"{self.model}@{self.revision}" if self.revision else self.model
        if self.lora:
            text += f"+{self.lora}@{self.lora_revision}" if self.lora_revision else f"+{self.lora}"
        return text


def parse_reference(text: str) -> Reference:
    """The parts of a reference. A path that exists as written is taken whole, whatever it contains.

    Raises:
        CheckpointError: The text is empty, or has more than one ``+``.
    """
    if not text.strip():
        raise CheckpointError("model", "a model reference is empty")
    if find_folder(local_path(text)):
        return Reference(text)
    parts = text.split("+")
    if len(parts) > 2 or not all(parts):
        raise CheckpointError(text, "a model reference is 'model', 'model@revision' or 'model+lora'")
    (model, revision), (lora, lora_revision) = (
        _revision(parts[0]),
        _revision(parts[1]) if parts[1:] else (None, None),
    )
    for name, named in ((model, revision), (lora, lora_revision)):
        if name == "" or (named is not None and not _is_revision(named)):
            raise CheckpointError(text, "a model reference is 'model', 'model@revision' or 'model+lora'")
    return Reference(model, revision, lora, lora_revision)


def parse_source(text: str) -> Reference:
    """The parts of what a merge reads: a model reference, or ``+adapter``, which goes over a stage.

    Raises:
        CheckpointError: As ``parse_reference``.
    """
    if not text.startswith("+") or find_folder(local_path(text)):
        return parse_reference(text)
    lora, revision = _revision(text[1:])
    if not lora or "+" in lora or (revision is not None and not _is_revision(revision)):
        raise CheckpointError(text, "an adapter over a stage is 'stage+lora' or 'stage+lora@revision'")
    return Reference("", None, lora, revision)


def locate(model: str, revision: str | None = None, folders: Sequence[Path] = (Path(),)) -> Path:
    """The local folder of ``model``: below one of ``folders``, in their order, or from the hub's cache.

    Hub ids are downloaded with ``huggingface_hub`` (only the files a merge needs); with ``HF_HUB_OFFLINE=1``
    only its cache is used.

    Raises:
        CheckpointError: There is no such folder and no such hub model.
    """
    candidates = _candidates(model, folders)
    found = _local(model, candidates)
    return found if found is not None else _download(model, revision, candidates)


def settings_folder(
    model: str, revision: str | None = None, folders: Sequence[Path] = (Path(),)
) -> Path | None:
    """A folder with the JSON files of a hub model, fetched without its weights.

    ``None`` for a local folder, and where nothing may be fetched (``HF_HUB_OFFLINE=1``).

    Raises:
        CheckpointError: There is no such folder and no such hub model.
    """
    candidates = _candidates(model, folders)
    if _local(model, candidates) is not None:
        return None
    from huggingface_hub import constants

    return None if constants.HF_HUB_OFFLINE else _fetch(model, revision, candidates, ["*.json"])


def local_folder(model: str, folders: Sequence[Path] = (Path(),)) -> Path | None:
    """The local folder of ``model``, below one of ``folders``; ``None`` where it can be an id of the hub.

    Raises:
        CheckpointError: There is no such folder, and no hub id looks like that.
    """
    return _local(model, _candidates(model, folders))


def _candidates(model: str, folders: Sequence[Path]) -> list[Path]:
    path = local_path(model)
    return [path] if path.is_absolute() else [folder / path for folder in folders]


def _local(model: str, candidates: Sequence[Path]) -> Path | None:
    """The folder of ``model``; ``None`` if it can only be that of a hub id."""
    for candidate in candidates:
        if find_folder(candidate):
            return candidate.resolve()
    file = next((c for c in candidates if find_file(c)), None)
    if file is not None:
        raise CheckpointError(model, *file_hint(file, model))
    closed = next((p for c in candidates if (p := closed_folder(c)) is not None), None)
    if closed is not None:
        raise CheckpointError(model, f"cannot be looked up (no permission for {closed})")
    if local_path(model).is_absolute() or model.startswith((".", "~")) or not _HUB_ID.fullmatch(model):
        raise CheckpointError(model, "there is no such model folder", _near(candidates))
    return None


def _revision(text: str) -> tuple[str, str | None]:
    model, at, revision = text.rpartition("@")
    return (model, revision) if at else (text, None)


def _is_revision(text: str) -> bool:
    """Whether it can be a branch, a tag or a commit: in a cache it is part of a path."""
    return re.fullmatch(r"\w[\w./-]*", text) is not None and ".." not in text


def _near(candidates: Sequence[Path]) -> str:
    for candidate in candidates:
        if find_folder(candidate.parent):
            try:
                names = sorted(p.name for p in candidate.parent.iterdir() if find_file(p / "config.json"))
            except OSError:  # it may not be listed
                names = []
            if names:
                return did_you_mean(candidate.name, names)
    looked = ", ".join(str(c) for c in candidates)
    return f"Looked in {looked}."


def _download(model: str, revision: str | None, candidates: Sequence[Path]) -> Path:
    patterns = [*SMALL_FILES, "*.safetensors"]
    if not any(name.endswith(".safetensors") for name in files_on_hub(model, revision) or ()):
        patterns.append("*.bin")  # offline: whatever the cache holds
    return _fetch(model, revision, candidates, patterns)


def files_on_hub(model: str, revision: str | None = None) -> list[str] | None:
    """The names of the files of a hub model; ``None`` where the hub does not say, as without a network."""
    from huggingface_hub import HfApi

    # Errors of a network are those of the hub's HTTP library, another one in each major release.
    try:
        # model_info, as list_repo_files tries for half a minute where there is no network
        found = HfApi().model_info(model, revision=revision, timeout=10).siblings or []
    except Exception:  # noqa: BLE001
        return None
    return [f.rfilename for f in found]


def _fetch(model: str, revision: str | None, candidates: Sequence[Path], patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as e:  # noqa: BLE001
        raise hub_error(model, e, _near(candidates)) from None


def hub_error(model: str, error: Exception, looked: str = "") -> CheckpointError:
    """What ``error`` of the hub's library means for ``model``: it is not there, or the cache cannot be used.

    ``looked`` says which folders were tried first.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return CheckpointError(
            model,
            f"the hub's cache cannot be used ({os.fsdecode(error.filename)}: {os.strerror(error.errno)})",
            f"Set HF_HOME (or HF_HUB_CACHE) to a folder that you may write; "
            f"it is {constants.HF_HUB_CACHE} now.",
        )
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            model, "this hub model is gated", "Ask for access on its page, then set HF_TOKEN."
        )
    if isinstance(error, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set." if constants.HF_HUB_OFFLINE else "The hub cannot be reached."
        what = (
            "there is neither such a folder nor such a model, with all its files, in the hub's cache "
            f"({constants.HF_HUB_CACHE})"
        )
        return CheckpointError(model, what, f"{looked} {why}".lstrip())
    if isinstance(error, HfHubHTTPError) and not looked:
        return CheckpointError(
            model, f"the download failed ({type(error).__name__})", "Try again: the download is resumed."
        )
    return CheckpointError(
        model,
        "there is neither such a folder nor such a model on the hub or in its cache",
        f"{looked} ({type(error).__name__})",
    )
