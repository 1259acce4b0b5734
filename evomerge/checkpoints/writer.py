"""Writing a model folder: shards whose headers are laid out first, and one rename at the end."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import DTYPES, TensorInfo
from evomerge.checkpoints.paging import let_go, rows_in_bytes, start_writing
from evomerge.errors import OutputError

__all__ = ["CheckpointWriter"]

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


class CheckpointWriter:
    """A model folder that appears whole or not at all.

    Everything is written to a hidden folder beside ``path``, whose files are preallocated (a full disk is
    noticed before any work) and mapped into memory: ``tensor(name)`` is the place in the file. ``commit``
    flushes and renames. Leaving the ``with`` block without ``commit`` removes what was written.

    Raises:
        OutputError: The target exists (and ``overwrite`` is not set), the disk is full, or writing fails.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, TensorInfo], *, shard_bytes: int, overwrite: bool = False
    ) -> None:
        self.path = path.absolute()
        self._check_target(overwrite=overwrite)
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._maps: list[mmap.mmap] = []
        self._descriptors: list[int] = []
        self._ranges: dict[str, tuple[int, int]] = {}
        self._views: dict[str, Tensor] = {}
        self._index: dict[str, str] = {}
        self._bytes = sum(info.bytes for info in tensors.values())
        try:
            # What is left of a run that was killed is ours to remove: it was never renamed.
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self._lay_out(tensors, shard_bytes)
        except OSError as exception:
            self.abandon()
            raise self._failed(exception) from None

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes what was written unless it was committed."""
        self.abandon()

    @property
    def folder(self) -> Path:
        """Where side files go before the commit."""
        return self._partial

    def tensor(self, name: str) -> Tensor:
        """The place of the tensor in its file: what is copied into it is written."""
        return self._views[name]

    def let_go(self, name: str, first: int = 0, end: int | None = None) -> None:
        """Says that those rows are written: their pages no longer count as memory of this process."""
        if name in self._ranges:
            view, (descriptor, offset) = self._views[name], self._ranges[name]
            begin, stop = rows_in_bytes(view, first, end)
            let_go(view, first, end)
            start_writing(descriptor, offset + begin, stop - begin)

    def write_text(self, name: str, text: str) -> None:
        """A side file.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            (self._partial / name).write_text(text, encoding="utf-8")
        except OSError as exception:
            raise self._failed(exception) from None

    def copy(self, source: Path) -> None:
        """A side file, copied from another folder.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            shutil.copyfile(source, self._partial / source.name)
        except OSError as exception:
            raise self._failed(exception) from None

    def commit(self) -> None:
        """Flushes everything to disk and gives the folder its name.

        Raises:
            OutputError: The disk refuses.
        """
        try:
            self._close(flush=True)
            if len(set(self._index.values())) > 1:
                document = {
                    "metadata": {"total_size": self._bytes},
                    "weight_map": dict(sorted(self._index.items())),
                }
                self.write_text("model.safetensors.index.json", json.dumps(document, indent=2) + "\n")
            for file in sorted(self._partial.iterdir()):
                _sync(file)
            _sync(self._partial)
            self._take_the_name()
            _sync(self.path.parent)
        except OSError as exception:
            raise self._failed(exception) from None

    def _take_the_name(self) -> None:
        old = self.path.with_name(f".{self.path.name}.replaced")
        shutil.rmtree(old, ignore_errors=True)
        try:
            if self.path.exists():
                self.path.rename(old)
            self._partial.rename(self.path)
        finally:  # also where Ctrl-C came between the two
            if old.exists() and not self.path.exists():
                old.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def abandon(self) -> None:
        """Removes what was written and not committed."""
        self._close(flush=False)
        shutil.rmtree(self._partial, ignore_errors=True)

    def _check_target(self, *, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(str(self.path), "is a file", "Name a folder that does not exist yet.")
        if self.path.is_dir() and any(self.path.iterdir()) and not overwrite:
            raise OutputError(
                str(self.path), "the folder is not empty", "Name another one, or give --overwrite."
            )

    def _lay_out(self, tensors: Mapping[str, TensorInfo], shard_bytes: int) -> None:
        shards: list[list[str]] = [[]]
        filled = 0
        for name, info in tensors.items():
            if filled and filled + info.bytes > shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(name)
            filled += info.bytes
        for i, names in enumerate(shards):
            file = (
                "model.safetensors"
                if len(shards) == 1
                else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            )
            self._create(file, {name: tensors[name] for name in names})

    def _create(self, file: str, tensors: Mapping[str, TensorInfo]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        # Wide dtypes first, so that every tensor starts at a multiple of its element size.
        for name in sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n)):
            info = tensors[name]
            header[name] = {
                "dtype": _NAMES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [offset, offset + info.bytes],
            }
            offset += info.bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        start = 8 + len(text)
        with (self._partial / file).open("wb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, start + offset)
            mapped = mmap.mmap(handle.fileno(), start + offset)
            descriptor = os.dup(handle.fileno())
        self._descriptors.append(descriptor)
        mapped[:8] = struct.pack("<Q", len(text))
        mapped[8:start] = text
        self._maps.append(mapped)
        for name, info in tensors.items():
            begin, end = header[name]["data_offsets"]
            self._index[name] = file
            if begin == end:
                self._views[name] = torch.empty(info.shape, dtype=info.dtype)
                continue
            flat = torch.frombuffer(
                mapped, dtype=info.dtype, count=(end - begin) // info.dtype.itemsize, offset=start + begin
            )
            self._views[name] = flat.view(info.shape)
            self._ranges[name] = (descriptor, start + begin)

    def _close(self, *, flush: bool) -> None:
        self._views.clear()
        for mapped in self._maps:
            if flush:
                mapped.flush()
            try:
                mapped.close()
            except BufferError:  # a view is still held somewhere; it goes when that does
                continue
        self._maps.clear()
        self._ranges.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _failed(self, exception: OSError) -> OutputError:
        if exception.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return OutputError(
                str(self.path),
                f"there is no room for the {self._bytes / 2**20:.0f} MiB of this model",
                "Free some space or name another folder. Nothing was left behind.",
            )
        return OutputError(str(self.path), f"cannot be written ({exception.strerror or exception})")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
