"""Models of the hub: headers and configuration first, the weights when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoints.checkpoint import DTYPES, Checkpoint, TensorFiles, TensorInfo, open_checkpoint
from evomerge.checkpoints.files import read_json, weight_files
from evomerge.checkpoints.references import SMALL_FILES, files_on_hub, hub_error, local_folder, locate
from evomerge.errors import CheckpointError

__all__ = ["open_model"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_AT_ONCE = 8


def open_model(model: str, revision: str | None = None, folders: Sequence[Path] = (Path(),)) -> Checkpoint:
    """The model in a local folder (below one of ``folders``, in their order) or on the hub.

    Of a hub model that is not in the cache only configuration, tokenizer and headers are read (megabytes).
    Its weights are downloaded when the first of them is read, or by ``Checkpoint.fetch``. A model without
    safetensors is downloaded whole: its headers cannot be read alone.

    Raises:
        CheckpointError: There is no such model, or a file of it is missing or damaged.
    """
    folder = local_folder(model, folders)
    if folder is None:
        names = files_on_hub(model, revision)
        if names is not None and (_SINGLE in names or _INDEX in names):
            return _Remote(model, revision, names).checkpoint()
        folder = _find_in_cache(model, revision) if names is None else None
        if folder is None:
            folder = locate(model, revision, folders)
    return open_checkpoint(folder)


def _find_in_cache(model: str, revision: str | None) -> Path | None:
    """The folder in the cache, if it has the weights that are used; it may lack others of the repository."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                model, revision=revision, allow_patterns=list(SMALL_FILES), local_files_only=True
            )
        )
        return folder if weight_files(folder) else None
    except Exception:  # noqa: BLE001 (not in the cache, or not all of it)
        return None


class _Remote:
    """A repository of the hub, at the commit that its small files were downloaded from."""

    def __init__(self, model: str, revision: str | None, names: Sequence[str]) -> None:
        self._model = model
        self._folder = self._fetch(list(SMALL_FILES), revision)
        self._commit = self._folder.name
        self._weights = [_SINGLE] if _SINGLE in names else self._shards(names)

    def checkpoint(self) -> Checkpoint:
        """The model; from its folder where all weights are in the cache."""
        if all((self._folder / name).is_file() for name in self._weights):
            return open_checkpoint(self._folder)
        config = read_json(self._folder / "config.json", "Is this the repository of a model?")
        tensors: dict[str, TensorInfo] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for found in pool.map(self._header, self._weights):
                tensors |= found
        files = _RemoteFiles(self)
        checkpoint = Checkpoint(self._folder, config, tensors, files)
        checkpoint.fetch = files.fetch
        return checkpoint

    def whole(self) -> Checkpoint:
        """The model with its weights, which are downloaded."""
        self._fetch(self._weights, self._commit)
        return open_checkpoint(self._folder)

    def _shards(self, names: Sequence[str]) -> list[str]:
        weight_map = read_json(self._folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
            raise CheckpointError(
                f"{self._model}/{_INDEX}", "has no 'weight_map' of tensor names to file names"
            )
        shards = sorted(set(weight_map.values()))
        missing = [name for name in shards if name not in names]
        if missing:
            raise CheckpointError(
                f"{self._model}/{_INDEX}", f"names files that the repository lacks: {', '.join(missing[:8])}"
            )
        return shards

    def _header(self, name: str) -> dict[str, TensorInfo]:
        from huggingface_hub import HfApi

        try:
            header = HfApi().parse_safetensors_file_metadata(self._model, name, revision=self._commit)
        except Exception as e:  # noqa: BLE001 (errors of a network are those of the hub's HTTP library)
            raise CheckpointError(
                f"{self._model}/{name}", f"its header cannot be read ({type(e).__name__})", "Try again."
            ) from None
        return {tensor: self._info(name, tensor, info) for tensor, info in header.tensors.items()}

    def _info(self, file: str, tensor: str, info: Any) -> TensorInfo:
        dtype = DTYPES.get(info.dtype)
        if dtype is None:
            raise CheckpointError(
                f"{self._model}/{file}", f"tensor {tensor!r} has the unsupported dtype {info.dtype}"
            )
        return TensorInfo(tuple(info.shape), dtype)

    def _fetch(self, patterns: list[str], revision: str | None) -> Path:
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self._model, revision=revision, allow_patterns=patterns))
        except Exception as e:  # noqa: BLE001
            raise hub_error(self._model, e) from None


class _RemoteFiles:
    """Weights that are downloaded, all of a model, before the first is read."""

    def __init__(self, remote: _Remote) -> None:
        self._remote = remote
        self._files: TensorFiles | None = None
        self._lock = threading.Lock()

    def fetch(self) -> None:
        self._whole()

    def read(self, name: str) -> Tensor:
        return self._whole().read(name)

    def is_mapped(self, name: str) -> bool:  # noqa: ARG002
        return True

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        if self._files is not None:
            self._files.release(name, first, end)

    def _whole(self) -> TensorFiles:
        with self._lock:
            if self._files is None:
                self._files = self._remote.whole().files
            return self._files
