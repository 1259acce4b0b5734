"""A merge as an input of another: a checkpoint whose tensors are merged when they are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.compute import merge_tensor, rows_of
from evomerge.engine.plan import MergePlan, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.kernels import InMemory

__all__ = ["stage_checkpoint"]

CACHE_BYTES = 2**28
"""Of the tensors merged last, for stages that more than one merge reads."""


class _StageFiles:
    """The tensors of a merge, computed one at a time; nothing is written."""

    def __init__(self, merge_plan: MergePlan) -> None:
        self._plan = merge_plan
        self._tensors = {tensor.name: tensor for tensor in merge_plan.tensors}
        self._made: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, name: str) -> Tensor:
        with self._lock:
            if name in self._made:
                self._made.move_to_end(name)
                return self._made[name]
        made = self._merge(self._tensors[name])
        with self._lock:
            self._made[name] = made
            while sum(t.nbytes for t in self._made.values()) > CACHE_BYTES:
                self._made.popitem(last=False)
        return made

    def is_mapped(self, name: str) -> bool:  # noqa: ARG002
        return False

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        """Does nothing: the cache has a size of its own."""

    def _merge(self, tensor: TensorPlan) -> Tensor:
        out = torch.empty(tensor.shape, dtype=tensor.dtype)

        def read(model: str, name: str) -> Tensor:
            return self._plan.checkpoints[model].read(name)

        merge_tensor(tensor, read, Statistics(), InMemory(rows_of(out)))
        for part in tensor.inputs:
            self._plan.checkpoints[part.model].release(part.tensor)
        return out


def stage_checkpoint(merge_plan: MergePlan, file: Path | None = None) -> Checkpoint:
    """The merge of ``merge_plan`` as a checkpoint, rounded to the dtype of its recipe as on disk.

    ``file`` is where its recipe stands, if it has a file of its own.
    """
    checkpoints = merge_plan.checkpoints
    folders = [folder for checkpoint in checkpoints.values() for folder in checkpoint.folders]
    stage = Checkpoint(
        checkpoints[merge_plan.config_source].path,
        dict(merge_plan.config),
        {tensor.name: tensor.info for tensor in merge_plan.tensors},
        _StageFiles(merge_plan),
        folders=(*((file,) if file is not None else ()), *dict.fromkeys(folders)),
        tokenizer=merge_plan.tokenizer.path,
    )
    stage.warnings = tuple(f"{model}: {text}" for model, c in checkpoints.items() for text in c.warnings)
    stage.left_out = merge_plan.left_out
    stage.fetch = partial(_fetch, checkpoints)
    return stage


def _fetch(checkpoints: Mapping[str, Checkpoint]) -> None:
    for checkpoint in checkpoints.values():
        checkpoint.fetch()
