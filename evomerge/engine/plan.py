"""A plan: every tensor of a merge, its inputs and its parameters. If a plan exists, the merge can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from evomerge.checkpoints.checkpoint import Checkpoint, LeftOut, TensorInfo
from evomerge.engine.tokenizer_folders import TokenizerFolder
from evomerge.engine.vocabulary import Renumbering

__all__ = ["Input", "MergePlan", "TensorPlan"]


@dataclass(frozen=True)
class Input:
    """One tensor of one model, by the model's reference."""

    model: str
    tensor: str


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor: what it is made of, by which method, with which parameters.

    ``inputs`` are in the order the method sees them, the base first where ``has_base``. ``parameters`` are
    bound: a scalar, or a tuple with one number per model besides the base.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    method: str
    inputs: tuple[Input, ...]
    has_base: bool
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> TensorInfo:
        """Shape and dtype of the output."""
        return TensorInfo(self.shape, self.dtype)


@dataclass(frozen=True)
class MergePlan:
    """All output tensors, what they are read from, the configuration of the output, and its tokenizer.

    ``checkpoints`` are what ``Input.model`` names: the models of the recipe, or views of them. The
    ``config_source`` gives the side files; ``renumber`` says where its token ids have gone, if they have;
    ``left_out`` are tensors of the models that have no part in it.
    """

    tensors: tuple[TensorPlan, ...]
    config: Mapping[str, Any]
    config_source: str
    checkpoints: Mapping[str, Checkpoint]
    tokenizer: TokenizerFolder
    renumber: Renumbering | None = None
    warnings: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def bytes(self) -> int:
        """Size of the output's weights."""
        return sum(t.info.bytes for t in self.tensors)
