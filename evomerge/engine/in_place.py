"""Merges in memory: resident sources, and weights of a model that each merge is written into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.compute import ComputePool, merge_tensor
from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.inputs import Inputs
from evomerge.engine.memory import SourcesIn, memory_plan
from evomerge.engine.plan import MergePlan, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.errors import CandidateError, FailureKind
from evomerge.kernels import Digest, InMemory
from evomerge.recipe import Recipe

__all__ = ["InPlaceMerge", "Weights", "WeightsFor"]


class Weights(Protocol):
    """The weights of a model in memory, under the names that the tensors of a merge have in files."""

    def place(self, name: str) -> Tensor:
        """Where the tensor ``name`` is written, as rows: (R, C); from several threads."""
        ...

    def settle(self) -> None:
        """Brings up to date what could not be written in place; called after the last tensor of a merge."""
        ...


WeightsFor = Callable[[Recipe, MergePlan], Weights]
"""The weights that have room for the plan of a recipe, of a new model where the last one does not fit."""


class InPlaceMerge:
    """Writes recipes into weights in memory, bit for bit what a merge to disk writes.

    ``device`` is where merges are computed. Sources stay where the memory plan of the first recipe has room
    for them: on ``device``, in pinned host memory, or in mapped files, which the page cache keeps.
    ``itemsize`` is that of the weights, in bytes, where it is not that of the recipe's output dtype.

    Not safe for use from several threads; it uses ``threads`` threads of its own.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        *,
        device: torch.device,
        itemsize: int | None = None,
        threads: int = 1,
        chunk_elements: int | None = None,
    ) -> None:
        self._inputs = Inputs(checkpoints)
        self._device = device
        self._itemsize = itemsize
        self._statistics = Statistics()
        self._chunk_elements = chunk_elements
        self._pool = ComputePool(threads)
        self._resident: dict[tuple[str, str], Tensor] = {}
        self._sources_in: SourcesIn | None = None
        self._known: dict[str, Checkpoint] = {}

    def plan(self, recipe: Recipe) -> MergePlan:
        """The plan of ``recipe`` over the sources; raises what ``Inputs.plan`` raises."""
        return self._inputs.plan(recipe)

    @torch.no_grad()
    def write(self, recipe: Recipe, weights_for: WeightsFor) -> str:
        """Writes the merge of ``recipe`` into the weights that ``weights_for`` gives; its fingerprint.

        Raises:
            CandidateError: The weights hold NaN or infinity, or memory ran out.
            RecipeError, CheckpointError: The recipe does not fit the models.
        """
        merge_plan = self.plan(recipe)
        self._forget_changed(merge_plan)
        if self._sources_in is None:  # before the weights take their memory
            needed = memory_plan(merge_plan.checkpoints, merge_plan, str(self._device), self._itemsize)
            self._sources_in = needed.sources_in
        try:
            return self._fill(weights_for(recipe, merge_plan), merge_plan)
        except torch.OutOfMemoryError as exception:
            raise CandidateError(FailureKind.OUT_OF_MEMORY, f"while merging: {exception}") from None

    def close(self) -> None:
        """Frees the sources and the threads."""
        self._pool.close()
        self._resident.clear()
        self._statistics.clear()

    def _fill(self, weights: Weights, merge_plan: MergePlan) -> str:
        def fill(tensor: TensorPlan) -> Digest:
            place = InMemory(weights.place(tensor.name))
            return merge_tensor(
                tensor, self._read, self._statistics, place, chunk_elements=self._chunk_elements
            )

        digests = self._pool.fill(fill, merge_plan.tensors)
        weights.settle()
        return fingerprint(merge_plan.tensors, digests)

    def _forget_changed(self, merge_plan: MergePlan) -> None:
        """Drops what is known of inputs that are others now: another stage, another vocabulary."""
        for model, checkpoint in merge_plan.checkpoints.items():
            known = self._known.get(model)
            if known is checkpoint:
                continue
            self._known[model] = checkpoint
            if known is not None:
                self._statistics.forget(model)
                self._resident = {key: t for key, t in self._resident.items() if key[0] != model}

    def _read(self, model: str, name: str) -> Tensor:
        checkpoint = self._known[model]
        if self._sources_in is SourcesIn.MAPPED and checkpoint.is_mapped(name):
            return checkpoint.read(name).to(self._device)
        key = (model, name)
        if key not in self._resident:
            tensor = checkpoint.read(name)
            if self._sources_in is SourcesIn.DEVICE:
                tensor = tensor.to(self._device)
            elif self._sources_in is SourcesIn.PINNED:
                tensor = tensor.pin_memory()
            self._resident[key] = tensor
        return self._resident[key].to(self._device, non_blocking=True)
