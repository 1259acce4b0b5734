"""Writing a model folder: shards whose headers are laid out first, and one rename at the end."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import DTYPES, TensorInfo
from evomerge.checkpoints.exchange import Workplace, exchange, recover
from evomerge.checkpoints.manifest import MANIFEST, manifest_text
from evomerge.checkpoints.output_path import Protected, check_target, output_path
from evomerge.checkpoints.paging import start_writing
from evomerge.errors import OutputError

__all__ = ["CheckpointWriter", "TensorFile"]

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8

_AT_ONCE = 1 << 25
"""Bytes after which the disk begins to write what has been written so far."""


@dataclass
class TensorFile:
    """The place of one tensor in a shard: rows (all dimensions but the last are rows) are written into it.

    Rows are computed in a buffer that stays in the core's cache and copied from there, which costs less than
    to fault in the pages of a mapped file, and a disk that refuses is an exception instead of a signal.
    """

    descriptor: int
    offset: int
    """Bytes from the beginning of the file."""
    info: TensorInfo
    failed: Callable[[OSError], OutputError]
    _buffer: Tensor | None = field(default=None, init=False)
    _started: int = field(default=0, init=False)

    def place(self, device: torch.device) -> Tensor | None:  # noqa: ARG002
        """There is none: files are not mapped."""
        return None

    def room(self, row: int, like: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        """A buffer of the shape of ``like`` beside it; the last one given is free again."""
        elements = like.numel()
        if self._buffer is None or self._buffer.numel() < elements:
            self._buffer = torch.empty(elements, dtype=dtype, device=like.device)
        return self._buffer[:elements].view(like.shape)

    def put(self, row: int, rows: Tensor) -> None:
        """Writes ``rows``, in the dtype of the tensor, as the rows from ``row`` on.

        Raises:
            OutputError: The disk refuses.
        """
        flat = rows.cpu().contiguous().view(-1).view(torch.uint8)
        data: memoryview = flat.numpy().data
        begin = row * rows.shape[-1] * self.info.dtype.itemsize
        end = begin + len(data)
        try:
            _write(self.descriptor, data, self.offset + begin)
        except OSError as exception:
            raise self.failed(exception) from None
        if end - self._started >= _AT_ONCE or end == self.info.bytes:
            start_writing(self.descriptor, self.offset + self._started, end - self._started)
            self._started = end
        if end == self.info.bytes:
            self._buffer = None


class CheckpointWriter:
    """A model folder that appears whole or not at all.

    Everything is written to a hidden folder beside ``path``, whose files are preallocated: a full disk is
    noticed before any work. ``tensor(name)`` is the place in the file. ``commit`` flushes, lists the files in
    a manifest and exchanges the folders. Leaving the ``with`` block without ``commit`` removes what was
    written. ``overwrite`` replaces a folder that holds only unchanged files of an earlier merge.

    Raises:
        OutputError: ``check_target`` refuses the folder, the disk is full, or writing fails.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorInfo],
        *,
        shard_bytes: int,
        overwrite: bool = False,
        protected: Sequence[Protected] = (),
    ) -> None:
        self.path = output_path(path)
        self._protected, self._overwrite = tuple(protected), overwrite
        self._descriptors: list[int] = []
        self._places: dict[str, TensorFile] = {}
        self._index: dict[str, str] = {}
        self._bytes = sum(info.bytes for info in tensors.values())
        self._workplace: Workplace | None = None
        try:
            recover(self.path)
            check_target(self.path, self._protected, overwrite=overwrite)
            self._workplace = Workplace(self.path)
            self._partial = self._workplace.folder
            self._lay_out(tensors, shard_bytes)
        except OSError as exception:
            self.abandon()
            raise self._disk_error(exception) from None

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes what was written unless it was committed."""
        self.abandon()

    def tensor(self, name: str) -> TensorFile:
        """The place of the tensor in its file."""
        return self._places[name]

    def write_text(self, name: str, text: str) -> None:
        """A side file.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            (self._partial / name).write_text(text, encoding="utf-8")
        except OSError as exception:
            raise self._disk_error(exception) from None

    def copy(self, source: Path) -> None:
        """A side file, copied from another folder.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            shutil.copyfile(source, self._partial / source.name)
        except OSError as exception:
            raise self._disk_error(exception) from None

    def commit(self) -> None:
        """Flushes everything to disk and gives the folder its name.

        Raises:
            OutputError: The disk refuses.
        """
        try:
            self._close()
            if len(set(self._index.values())) > 1:
                document = {
                    "metadata": {"total_size": self._bytes},
                    "weight_map": dict(sorted(self._index.items())),
                }
                self.write_text("model.safetensors.index.json", json.dumps(document, indent=2) + "\n")
            self.write_text(MANIFEST, manifest_text(self._partial))
            for file in sorted(self._partial.iterdir()):
                _sync(file)
            _sync(self._partial)
            # Checked again: a merge may take hours, in which files may have been added.
            check_target(self.path, self._protected, overwrite=self._overwrite)
            exchange(self._partial, self.path)
            _sync(self.path.parent)
        except OSError as exception:
            raise self._disk_error(exception) from None

    def abandon(self) -> None:
        """Removes what was written and not committed."""
        self._close()
        if self._workplace is not None:
            self._workplace.remove()

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
        descriptor = os.open(self._partial / file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._descriptors.append(descriptor)
        os.posix_fallocate(descriptor, 0, start + offset)
        _write(descriptor, memoryview(struct.pack("<Q", len(text)) + text), 0)
        for name, info in tensors.items():
            begin, _ = header[name]["data_offsets"]
            self._index[name] = file
            self._places[name] = TensorFile(descriptor, start + begin, info, self._disk_error)

    def _close(self) -> None:
        self._places.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _disk_error(self, exception: OSError) -> OutputError:
        if exception.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return OutputError(
                str(self.path),
                f"not enough disk space for the {self._bytes / 2**20:.0f} MiB of this model",
                "Free some space or name another folder. Nothing was left behind.",
            )
        return OutputError(str(self.path), f"cannot be written ({exception.strerror or exception})")


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    """Writes all of ``data``; a system call may write less."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
