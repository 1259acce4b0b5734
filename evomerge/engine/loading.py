"""transformers' own loading of a model, from tensors in memory instead of files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evomerge.engine.model_names import first_line
from evomerge.errors import CheckpointError
from evomerge.tokenizers.vocabulary import quiet

__all__ = ["LoadReport", "listed", "load", "load_complete"]

_LISTED = 8
_NO_THREADS = "HF_DEACTIVATE_ASYNC_LOAD"
"""transformers' own switch, looked at on each loading."""


@dataclass(frozen=True)
class LoadReport:
    """Weights that the tensors lack, that are of another shape (as ``a is [1], not [2]``), or have no use."""

    missing: tuple[str, ...]
    unequal: tuple[str, ...]
    unused: tuple[str, ...]


def load(
    config: Any, model_class: Any, tensors: Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> tuple[nn.Module, LoadReport]:
    """The model of ``model_class`` that transformers makes of ``tensors``, and what it says of them.

    Raises:
        CheckpointError: It cannot make one.
    """
    try:
        # With a seed of its own: some models draw at random what no checkpoint of theirs holds.
        with (
            quiet(),
            _one_by_one(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            torch.manual_seed(0)
            module, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                dtype=dtype,
                device_map=None if device.type == "cpu" else {"": device},
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report names them
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as exception:  # noqa: BLE001 (what models raise depends on the model)
        raise CheckpointError(
            "", f"no {model_class.__name__} can be made of it ({first_line(exception)})"
        ) from None
    unequal = [f"{n} is {list(has)}, not {list(wants)}" for n, has, wants in report["mismatched_keys"]]
    return module, LoadReport(
        tuple(sorted(report["missing_keys"])),
        tuple(sorted(unequal)),
        tuple(sorted(report["unexpected_keys"])),
    )


def load_complete(
    config: Any,
    model_class: Any,
    tensors: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    config_source: str,
) -> tuple[nn.Module, tuple[str, ...]]:
    """As ``load``, of tensors that must be all that the model needs; the model, and what it has no use for.

    Raises:
        CheckpointError: It cannot be made, or weights are missing or have another shape; names
            ``config_source``.
    """
    try:
        module, report = load(config, model_class, tensors, dtype, device)
    except CheckpointError as exception:
        raise CheckpointError(config_source, exception.reason) from None
    for what, found in (
        ("has weights of another shape than", report.unequal),
        ("lacks weights of", report.missing),
    ):
        if found:
            raise CheckpointError(config_source, f"{what} {model_class.__name__}: {listed(found)}")
    return module, report.unused


def listed(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "; ".join(names[:_LISTED]) + more


@contextmanager
def _one_by_one() -> Iterator[None]:
    """Has transformers load tensors when it needs them, not ahead in threads of its own.

    glibc keeps memory that other threads free for these threads: experts would take their memory twice.
    """
    before = os.environ.get(_NO_THREADS)
    os.environ[_NO_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_NO_THREADS]
        if before is not None:
            os.environ[_NO_THREADS] = before
