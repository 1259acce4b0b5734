"""A model folder: its configuration, and its tensors without reading them before they are asked for."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.checkpoints.files import read_json, unread_weights, weight_files
from evomerge.checkpoints.formats import folder_hint
from evomerge.checkpoints.paging import release
from evomerge.errors import CheckpointError

__all__ = ["DTYPES", "Checkpoint", "TensorFiles", "TensorInfo", "dtype_name", "main_dtype", "open_checkpoint"]

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""torch's dtype for each name of the safetensors format."""
if hasattr(torch, "float8_e8m0fnu"):  # since torch 2.7
    DTYPES["F8_E8M0"] = torch.float8_e8m0fnu


@dataclass(frozen=True)
class TensorInfo:
    """The shape and dtype of a tensor, from a header."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size in memory."""
        count = 1
        for n in self.shape:
            count *= n
        return count * self.dtype.itemsize


@dataclass(frozen=True)
class LeftOut:
    """The tensors of models that are left out of a merge, by model.

    ``ignored`` are those that the recipe names, ``unused`` those that transformers does not load, computes
    itself or finds in another tensor.
    """

    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def join(self, other: LeftOut, of: str = "") -> LeftOut:
        """These and those of ``other``, whose models are inputs of the model ``of`` where it is given."""
        ahead = f"{of}: " if of else ""
        return LeftOut(
            _join_names(self.ignored, {ahead + m: n for m, n in other.ignored.items()}),
            _join_names(self.unused, {ahead + m: n for m, n in other.unused.items()}),
        )


def _join_names(
    first: Mapping[str, tuple[str, ...]], second: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    models = dict.fromkeys((*first, *second))
    return {m: tuple(dict.fromkeys((*first.get(m, ()), *second.get(m, ())))) for m in models}


class TensorFiles(Protocol):
    """Where a checkpoint's tensors come from."""

    def read(self, name: str) -> Tensor:
        """The tensor."""
        ...

    def is_mapped(self, name: str) -> bool:
        """Whether reading it costs nothing."""
        ...

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        """Releases the memory of rows ``first`` to ``end``, which are not needed for now."""
        ...


class Checkpoint:
    """One model: ``tensors`` from the headers, ``config`` from config.json, weights on demand.

    ``read`` maps the file into memory and copies nothing; the tensor must not be written to. ``path`` is the
    folder with the side files, ``tokenizer`` the one with the tokenizer's. ``warnings`` are about the model
    as such, whatever is merged with it; ``left_out`` are those of its own inputs, where it is a merge itself.
    ``fetch`` has the weight files on this machine, where they are still
    on the hub.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        tensors: Mapping[str, TensorInfo],
        files: TensorFiles,
        *,
        folders: tuple[Path, ...] = (),
        tokenizer: Path | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.tensors: dict[str, TensorInfo] = dict(tensors)
        self.files = files
        self.folders = folders or (path,)
        self.tokenizer = tokenizer if tokenizer is not None else path
        self.warnings: tuple[str, ...] = ()
        self.left_out = LeftOut()
        self.fetch: Callable[[], None] = _nothing

    def with_tokenizer(self, folder: Path) -> Checkpoint:
        """The same model with the tokenizer in ``folder``."""
        other = copy.copy(self)
        other.tokenizer = folder
        return other

    def read(self, name: str) -> Tensor:
        """The tensor ``name``, as a view of the mapped file.

        Raises:
            CheckpointError: The file is damaged.
        """
        return self.files.read(name)

    def is_mapped(self, name: str) -> bool:
        """Whether ``read`` gives a view of a mapped file, at no cost."""
        return self.files.is_mapped(name)

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        """Releases rows that are not needed for now: their pages no longer count as memory of this process.

        Rows are those of the tensor with all dimensions but the last in one; a vector is one row.
        """
        self.files.release(name, first, end)

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(info.bytes for info in self.tensors.values())


def _nothing() -> None:
    """The weights are here."""


class _Files:
    """The weight files of a folder, opened once."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._file_of: dict[str, Path] = {}
        self._loaded: dict[str, Tensor] = {}

    def add_safetensors(self, path: Path) -> dict[str, TensorInfo]:
        try:
            handle = safe_open(str(path), framework="pt")
            infos = {}
            for name in handle.keys():  # noqa: SIM118 (no mapping)
                part = handle.get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                if dtype is None:
                    is_quantized = part.get_dtype().startswith(("F4", "F6"))
                    raise CheckpointError(
                        str(path),
                        f"tensor {name!r} has the unsupported dtype {part.get_dtype()}",
                        "It is quantized: merge the model from before quantization." if is_quantized else "",
                    )
                infos[name] = TensorInfo(tuple(part.get_shape()), dtype)
                self._handles[name], self._file_of[name] = handle, path
        except (SafetensorError, OSError, ValueError) as exception:
            if _is_pointer(path):
                raise CheckpointError(
                    str(path), "is a pointer of Git LFS, not the weights", "Run 'git lfs pull' in its folder."
                ) from None
            raise CheckpointError(
                str(path), f"cannot be read as safetensors ({exception})", "Copy or download it again."
            ) from None
        return infos

    def add_bin(self, path: Path) -> dict[str, TensorInfo]:
        """A pickled file of tensors, read without unpickling anything but tensors."""
        import pickle

        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            raise CheckpointError(
                str(path),
                "holds more than tensors, and reading it would run code from the file",
                "Convert it to safetensors where you trust it.",
            ) from None
        except (RuntimeError, OSError, ValueError, EOFError) as exception:
            raise CheckpointError(str(path), f"cannot be read as a file of weights ({exception})") from None
        if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
            raise CheckpointError(str(path), "is not a mapping of names to tensors")
        self._loaded.update(loaded)
        return {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in loaded.items()}

    def is_mapped(self, name: str) -> bool:
        return name not in self._loaded

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        if self.is_mapped(name):
            release(self.read(name), first, end)

    def read(self, name: str) -> Tensor:
        if name in self._loaded:
            return self._loaded[name]
        try:
            tensor: Tensor = self._handles[name].get_tensor(name)
        # A shape beyond torch's integers, of a tensor without elements, passes the checks of the format.
        except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, OverflowError) as exception:
            raise CheckpointError(
                str(self._file_of[name]), f"tensor {name!r} cannot be read ({exception})"
            ) from None
        return tensor


def _is_pointer(path: Path) -> bool:
    """Whether the file is a pointer of Git LFS: a few lines of text in place of the weights."""
    try:
        with path.open("rb") as file:
            return file.read(_POINTER_BYTES).startswith(b"version https://git-lfs")
    except OSError:
        return False


_POINTER_BYTES = 64


def open_checkpoint(path: Path) -> Checkpoint:
    """The model in the folder ``path``; reads headers only.

    Raises:
        CheckpointError: A file is missing or damaged; it is named.
    """
    if not os.path.lexists(path / "config.json"):
        kind, hint = folder_hint(path)
        reason = f"the folder holds {kind}, not a model" if kind else "there is no such file"
        where = path if kind else path / "config.json"
        raise CheckpointError(str(where), reason, hint or "Is this a model folder?")
    config = read_json(path / "config.json")
    config.pop("transformers_weights", None)  # the name of the file that is read here
    files = _Files()
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(path):
        add = files.add_safetensors if file.suffix == ".safetensors" else files.add_bin
        for name, info in add(file).items():
            if name in tensors:
                raise CheckpointError(str(file), f"tensor {name!r} is also in another file of the folder")
            tensors[name] = info
    if not tensors:
        raise CheckpointError(str(path), "its weight files hold no tensors")
    checkpoint = Checkpoint(path, config, tensors, files)
    unread = unread_weights(path)
    if unread is not None:
        first = weight_files(path)[0].name
        checkpoint.warnings = (f"has two sets of weights: {first} is read, as by transformers, not {unread}",)
    return checkpoint


def main_dtype(infos: Iterable[TensorInfo]) -> torch.dtype | None:
    """The floating-point dtype that most bytes have; ``None`` where there is none."""
    sizes: dict[torch.dtype, int] = {}
    for info in infos:
        if info.dtype.is_floating_point:
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.bytes
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def dtype_name(dtype: torch.dtype) -> str:
    """``bfloat16``, as recipes and configurations spell it."""
    return str(dtype).removeprefix("torch.")
