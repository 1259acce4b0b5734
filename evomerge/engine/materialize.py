"""Candidates in memory: resident sources and one live model that each candidate is written into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.compute import CHUNK_ELEMENTS, ComputePool, merge_tensor
from evomerge.engine.fingerprint import combined_fingerprint
from evomerge.engine.live_model import LiveModel, load_tokenizer
from evomerge.engine.plan import MergePlan, TensorPlan, plan
from evomerge.engine.statistics import Statistics
from evomerge.errors import CandidateError, CheckpointError, FailureKind
from evomerge.recipe import Recipe

__all__ = ["Materializer"]


class Materializer:
    """Writes recipes into a live model, in place; bit for bit what a merge to disk writes.

    ``compute_dtype`` is what the live model calculates in: its weights are first rounded to the output dtype
    of the recipe, so that a bfloat16 merge can be scored in float32 where that is faster. Sources stay on
    ``device`` (on the CPU they are mapped files, which the page cache keeps).

    Not safe for use from several threads; it uses ``threads`` threads of its own.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        *,
        device: str | torch.device = "cpu",
        compute_dtype: torch.dtype | None = None,
        threads: int = 1,
        chunk_elements: int = CHUNK_ELEMENTS,
    ) -> None:
        self.checkpoints = dict(checkpoints)
        self.device = torch.device(device)
        self.compute_dtype = compute_dtype
        self.statistics = Statistics()
        self._chunk_elements = chunk_elements
        self._pool = ComputePool(threads)
        self._resident: dict[tuple[str, str], Tensor] = {}
        self._live: LiveModel | None = None
        self._tokenizers: dict[str, Any] = {}
        self._donor: str | None = None

    @property
    def model(self) -> nn.Module:
        """The live model; its weights are those of the last ``load``."""
        if self._live is None:
            raise RuntimeError("nothing has been loaded yet")
        return self._live.module

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the last recipe loaded."""
        if self._donor is None:
            raise RuntimeError("nothing has been loaded yet")
        if self._donor not in self._tokenizers:
            self._tokenizers[self._donor] = load_tokenizer(self.checkpoints[self._donor].path)
        return self._tokenizers[self._donor]

    def plan(self, recipe: Recipe) -> MergePlan:
        """The plan of ``recipe`` over the sources; raises what ``plan`` raises."""
        return plan(recipe, self.checkpoints)

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
        def fill(tensor: TensorPlan) -> str:
            place_RC = live.place(tensor.name)

            def write(row: int, rows_RC: Tensor) -> None:
                place_RC[row : row + rows_RC.shape[0]].copy_(rows_RC)

            return merge_tensor(
                tensor, self._read, self.statistics, write, chunk_elements=self._chunk_elements
            )

        digests = self._pool.map(fill, merge_plan.tensors)
        live.settle()
        self._donor = merge_plan.donor
        names = [t.name for t in merge_plan.tensors]
        return combined_fingerprint(merge_plan.tensors, dict(zip(names, digests, strict=True)))

    def _live_model(self, merge_plan: MergePlan, *, is_stack: bool) -> LiveModel:
        dtype = self.compute_dtype or _main_dtype(merge_plan)
        if self._live is not None and self._live.fits(merge_plan, dtype):
            return self._live
        self._live = None  # before the new one is built: both may not fit
        if is_stack:
            donor = self.checkpoints[merge_plan.donor]
            self._live = LiveModel.of_layers(merge_plan, donor, dtype, self.device)
        else:
            self._live = LiveModel(merge_plan, dtype, self.device)
        return self._live

    def _read(self, model: str, name: str) -> Tensor:
        if self.device.type == "cpu" and self.checkpoints[model].mapped(name):
            return self.checkpoints[model].read(name)
        key = (model, name)
        if key not in self._resident:
            self._resident[key] = self.checkpoints[model].read(name).to(self.device)
        return self._resident[key]


def _main_dtype(merge_plan: MergePlan) -> torch.dtype:
    """The dtype that most of the output's bytes have; a model runs in one."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in merge_plan.tensors:
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.info.bytes
    if not sizes:
        raise CheckpointError(merge_plan.donor, "holds no weights in floating point")
    return max(sizes, key=lambda dtype: sizes[dtype])
