"""Candidates in memory: resident sources and one live model that each candidate is written into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.checkpoints.checkpoint import Checkpoint, main_dtype
from evomerge.engine.compute import ComputePool, merge_tensor
from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.inputs import Inputs
from evomerge.engine.live_model import LiveModel
from evomerge.engine.memory import SourcesIn, memory_plan
from evomerge.engine.plan import MergePlan, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.engine.tokenizer_folders import TokenizerFolder
from evomerge.errors import CandidateError, CheckpointError, FailureKind
from evomerge.kernels import Digest, InMemory
from evomerge.recipe import Recipe
from evomerge.tokenizers.vocabulary import load_tokenizer

__all__ = ["Materializer"]


class Materializer:
    """Writes recipes into a live model, in place; bit for bit what a merge to disk writes.

    ``compute_dtype`` is what the live model calculates in: its weights are first rounded to the output dtype
    of the recipe, so that a bfloat16 merge can be scored in float32 where that is faster. Sources stay where
    the memory plan of the first recipe has room for them: on ``device``, in pinned host memory, or in mapped
    files, which the page cache keeps.

    Not safe for use from several threads; it uses ``threads`` threads of its own.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        *,
        device: str | torch.device = "cpu",
        compute_dtype: torch.dtype | None = None,
        threads: int = 1,
        chunk_elements: int | None = None,
    ) -> None:
        self._inputs = Inputs(checkpoints)
        self.device = torch.device(device)
        self.compute_dtype = compute_dtype
        self.statistics = Statistics()
        self._chunk_elements = chunk_elements
        self._pool = ComputePool(threads)
        self._resident: dict[tuple[str, str], Tensor] = {}
        self._live: LiveModel | None = None
        self._sources_in: SourcesIn | None = None
        self._known: dict[str, Checkpoint] = {}
        self._plan: MergePlan | None = None
        self._tokenizer: tuple[TokenizerFolder, Any] | None = None

    @property
    def model(self) -> nn.Module:
        """The live model; its weights are those of the last ``load``."""
        if self._live is None:
            raise RuntimeError("nothing has been loaded yet")
        return self._live.module

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the last recipe loaded."""
        if self._plan is None:
            raise RuntimeError("nothing has been loaded yet")
        folder = self._plan.tokenizer
        if self._tokenizer is None or self._tokenizer[0].path != folder.path:
            self._tokenizer = folder, load_tokenizer(folder.path)
        return self._tokenizer[1]

    def plan(self, recipe: Recipe) -> MergePlan:
        """The plan of ``recipe`` over the sources; raises what ``plan`` raises."""
        return self._inputs.plan(recipe)

    @torch.no_grad()
    def load(self, recipe: Recipe) -> str:
        """Writes the merge of ``recipe`` into the live model; its fingerprint.

        The live model is rebuilt from its configuration where the recipe changes it (another depth); the
        sources stay.

        Raises:
            CandidateError: The weights hold NaN or infinity, or memory ran out.
            RecipeError, CheckpointError: The recipe does not fit the models.
        """
        merge_plan = self.plan(recipe)
        self._forget_changed(merge_plan)
        if self._sources_in is None:
            size = self.compute_dtype.itemsize if self.compute_dtype is not None else None
            needed = memory_plan(merge_plan.checkpoints, merge_plan, str(self.device), size)
            self._sources_in = needed.sources_in
        self._plan = merge_plan
        try:
            return self._fill(self._live_model(merge_plan, is_stack=recipe.models is None), merge_plan)
        except torch.OutOfMemoryError as exception:
            raise CandidateError(FailureKind.OUT_OF_MEMORY, f"while merging: {exception}") from None

    def close(self) -> None:
        """Frees the live model, the sources and the threads."""
        self._pool.close()
        self._live = None
        self._resident.clear()
        self.statistics.clear()

    def _fill(self, live: LiveModel, merge_plan: MergePlan) -> str:
        def fill(tensor: TensorPlan) -> Digest:
            place = InMemory(live.place(tensor.name))
            return merge_tensor(
                tensor, self._read, self.statistics, place, chunk_elements=self._chunk_elements
            )

        digests = self._pool.fill(fill, merge_plan.tensors)
        live.settle()
        return fingerprint(merge_plan.tensors, digests)

    def _live_model(self, merge_plan: MergePlan, *, is_stack: bool) -> LiveModel:
        dtype = self.compute_dtype or _main_dtype(merge_plan)
        if self._live is not None and self._live.fits(merge_plan, dtype):
            return self._live
        self._live = None  # before the new one is built: both may not fit
        make = LiveModel.of_layers if is_stack else LiveModel
        self._live = make(merge_plan, dtype, self.device)
        return self._live

    def _forget_changed(self, merge_plan: MergePlan) -> None:
        """Drops what is known of inputs that are others now: another stage, another vocabulary."""
        for model, checkpoint in merge_plan.checkpoints.items():
            known = self._known.get(model)
            if known is checkpoint:
                continue
            self._known[model] = checkpoint
            if known is not None:
                self.statistics.forget(model)
                self._resident = {key: t for key, t in self._resident.items() if key[0] != model}

    def _read(self, model: str, name: str) -> Tensor:
        checkpoint = self._known[model]
        if self._sources_in is SourcesIn.MAPPED and checkpoint.mapped(name):
            return checkpoint.read(name).to(self.device)
        key = (model, name)
        if key not in self._resident:
            tensor = checkpoint.read(name)
            if self._sources_in is SourcesIn.DEVICE:
                tensor = tensor.to(self.device)
            elif self._sources_in is SourcesIn.PINNED:
                tensor = tensor.pin_memory()
            self._resident[key] = tensor
        return self._resident[key].to(self.device, non_blocking=True)


def _main_dtype(merge_plan: MergePlan) -> torch.dtype:
    """The dtype that most of the output's bytes have; a model runs in one."""
    dtype = main_dtype(t.info for t in merge_plan.tensors)
    if dtype is None:
        raise CheckpointError(merge_plan.donor, "holds no weights in floating point")
    return dtype
