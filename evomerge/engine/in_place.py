"""Merges in memory: resident sources, and the weights of a model that each merge is written into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.compute import ComputePool, merge_tensor, rows_of
from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.inputs import Inputs
from evomerge.engine.memory import SourcesIn, memory_plan
from evomerge.engine.plan import MergePlan, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.errors import CandidateError, FailureKind
from evomerge.kernels import Digest, InMemory
from evomerge.recipe import Recipe

__all__ = ["InPlaceMerge", "TakeTensors", "Weights", "WeightsFor"]


class Weights(Protocol):
    """The weights of a model in memory, under the names that the tensors of a merge have in files."""

    def place(self, name: str) -> Tensor:
        """Where the tensor ``name`` is written, as rows: (R, C); from several threads."""
        ...

    def settle(self) -> None:
        """Brings up to date what could not be written in place; called after the last tensor of a merge."""
        ...


WeightsFor = Callable[[Recipe, MergePlan], Weights]
"""Returns weights that fit the plan of a recipe, of a new model where the last one does not fit."""

TakeTensors = Callable[[Iterator[tuple[str, Tensor]]], None]
"""What takes the tensors of a merge, by their names in files, one after the other."""


class InPlaceMerge:
    """Writes recipes into weights in memory, bit for bit what a merge to disk writes.

    ``device`` is where merges are computed. Sources stay where the memory plan of the first recipe has room
    for them: on ``device``, in pinned host memory, or in mapped files, which the page cache keeps.
    ``itemsize`` is that of the weights, in bytes, where it is not that of the recipe's output dtype.

    Not thread-safe; it uses ``threads`` threads of its own.
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
        merge_plan = self._planned(recipe)
        try:
            return self._fill(weights_for(recipe, merge_plan), merge_plan)
        except torch.OutOfMemoryError as exception:
            raise CandidateError(FailureKind.OUT_OF_MEMORY, f"while merging: {exception}") from None

    @torch.no_grad()
    def hand_over(self, recipe: Recipe, take: TakeTensors) -> str:
        """Makes the tensors of the merge of ``recipe`` for ``take``, in the output dtype; its fingerprint.

        A tensor is made when ``take`` is about to ask for it, and is its own from then on: of the merged
        model no more than a few tensors are held here.

        Raises:
            CandidateError: The weights hold NaN or infinity, or memory ran out.
            RecipeError, CheckpointError: The recipe does not fit the models.
            ValueError: ``take`` left tensors.
        """
        merge_plan = self._planned(recipe)
        digests: list[Digest] = []

        def tensors() -> Iterator[tuple[str, Tensor]]:
            made = self._pool.in_turn(self._made, merge_plan.tensors)
            for tensor, (rows_RC, digest) in zip(merge_plan.tensors, made, strict=True):
                digests.append(digest)
                yield tensor.name, rows_RC.view(tensor.shape)

        try:
            take(tensors())
        except torch.OutOfMemoryError as exception:
            raise CandidateError(FailureKind.OUT_OF_MEMORY, f"while merging: {exception}") from None
        return fingerprint(merge_plan.tensors, digests)

    def close(self) -> None:
        """Frees the sources and the threads."""
        self._pool.close()
        self._resident.clear()
        self._statistics.clear()

    def _planned(self, recipe: Recipe) -> MergePlan:
        merge_plan = self.plan(recipe)
        self._forget_changed(merge_plan)
        if self._sources_in is None:  # before the weights take their memory
            needed = memory_plan(merge_plan.checkpoints, merge_plan, str(self._device), self._itemsize)
            self._sources_in = needed.sources_in
        return merge_plan

    def _made(self, tensor: TensorPlan) -> tuple[Tensor, Digest]:
        rows_RC = rows_of(torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device))
        return rows_RC, self._merged(tensor, rows_RC)

    def _merged(self, tensor: TensorPlan, rows_RC: Tensor) -> Digest:
        return merge_tensor(
            tensor, self._read, self._statistics, InMemory(rows_RC), chunk_elements=self._chunk_elements
        )

    def _fill(self, weights: Weights, merge_plan: MergePlan) -> str:
        def fill(tensor: TensorPlan) -> Digest:
            return self._merged(tensor, weights.place(tensor.name))

        digests = self._pool.fill(fill, merge_plan.tensors)
        weights.settle()
        return fingerprint(merge_plan.tensors, digests)

    def _forget_changed(self, merge_plan: MergePlan) -> None:
        """Drops what is known of inputs that have changed: another stage, another vocabulary."""
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
