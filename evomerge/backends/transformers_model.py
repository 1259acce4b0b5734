"""A transformers model in this process: merged in place, asked through lm-eval or in batches of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evomerge.backends.config_digest import config_digest
from evomerge.backends.resident import ModelSettings
from evomerge.backends.transformers_lm import LoadedModel
from evomerge.backends.transformers_weights import TransformersWeights
from evomerge.checkpoints.checkpoint import Checkpoint, dtype_name, main_dtype
from evomerge.engine.device import resolve_device
from evomerge.engine.in_place import InPlaceMerge
from evomerge.engine.plan import MergePlan
from evomerge.engine.sources import open_sources
from evomerge.engine.tokenizer_folders import TokenizerFolder
from evomerge.errors import CheckpointError
from evomerge.fitness.askable import Askable, BatchSize, EvalLM
from evomerge.fitness.deadline import Deadline
from evomerge.recipe import Recipe
from evomerge.tokenizers.vocabulary import load_tokenizer

__all__ = ["TransformersModel", "model_dtype"]

_DTYPES = {dtype_name(d): d for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


AskedModel = Callable[[nn.Module, Any], Askable]
"""How a live model and its tokenizer are asked."""


class TransformersModel:
    """A ``ResidentModel``: one live model that each recipe is written into.

    ``asked`` makes what asks the live model, once for each model and tokenizer.

    ``compute_dtype`` is what the live model calculates in: its weights are first rounded to the output dtype
    of the recipe, so that a bfloat16 merge can be scored in float32 where that is faster.

    Not safe for use from several threads; it merges with ``threads`` threads of its own.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        *,
        device: str | torch.device = "cpu",
        compute_dtype: torch.dtype | None = None,
        threads: int = 1,
        chunk_elements: int | None = None,
        asked: AskedModel = LoadedModel,
    ) -> None:
        self._asked = asked
        self.device = torch.device(device)
        self.compute_dtype = compute_dtype
        self._merge = InPlaceMerge(
            checkpoints,
            device=self.device,
            itemsize=compute_dtype.itemsize if compute_dtype is not None else None,
            threads=threads,
            chunk_elements=chunk_elements,
        )
        self._weights: TransformersWeights | None = None
        self._plan: MergePlan | None = None
        self._tokenizer: tuple[TokenizerFolder, Any] | None = None
        self._askable: tuple[Askable, Any] | None = None

    @classmethod
    def of(cls, settings: ModelSettings, asked: AskedModel = LoadedModel) -> TransformersModel:
        """The model of a worker, its sources opened.

        Raises:
            UserError: A model or the device is wrong.
        """
        return cls(
            open_sources(dict(settings.models), (Path(), settings.folder)),
            device=resolve_device(settings.device),
            compute_dtype=_DTYPES[settings.dtype] if settings.dtype is not None else None,
            threads=settings.threads,
            asked=asked,
        )

    @property
    def model(self) -> nn.Module:
        """The live model; its weights are those of the last ``load``."""
        if self._weights is None:
            raise RuntimeError("nothing has been loaded yet")
        return self._weights.module

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the last recipe loaded."""
        if self._plan is None:
            raise RuntimeError("nothing has been loaded yet")
        folder = self._plan.tokenizer
        if self._tokenizer is None or self._tokenizer[0].path != folder.path:
            self._tokenizer = folder, load_tokenizer(folder.path)
        return self._tokenizer[1]

    @property
    def config_digest(self) -> str | None:
        """As ``ResidentModel.config_digest``."""
        return None if self._plan is None else config_digest(self._plan)

    def plan(self, recipe: Recipe) -> MergePlan:
        """The plan of ``recipe`` over the sources; raises what ``Inputs.plan`` raises."""
        return self._merge.plan(recipe)

    def load(self, recipe: Recipe) -> str:
        """Writes the merge of ``recipe`` into the live model; its fingerprint.

        The live model is rebuilt from its configuration where the recipe changes it (another depth); the
        sources stay.

        Raises:
            CandidateError: The weights hold NaN or infinity, or memory ran out.
            RecipeError, CheckpointError: The recipe does not fit the models.
        """
        return self._merge.write(recipe, self._weights_for)

    def lm(self, batch_size: BatchSize, deadline: Deadline | None = None) -> EvalLM:
        """As ``Askable.lm``."""
        tokenizer = self.tokenizer
        if self._askable is None or self._askable[1] is not tokenizer:
            self._askable = self._asked(self.model, tokenizer), tokenizer
        return self._askable[0].lm(batch_size, deadline)

    def close(self) -> None:
        """Frees the live model, the sources and the threads."""
        self._merge.close()
        self._weights = self._askable = None

    def _weights_for(self, recipe: Recipe, merge_plan: MergePlan) -> TransformersWeights:
        self._plan = merge_plan
        dtype = self.compute_dtype or model_dtype(merge_plan)
        if self._weights is not None and self._weights.fits(merge_plan, dtype):
            return self._weights
        self._weights = self._askable = None  # before the new one is built: both may not fit
        make = TransformersWeights.of_layers if recipe.models is None else TransformersWeights
        self._weights = make(merge_plan, dtype, self.device)
        return self._weights


def model_dtype(merge_plan: MergePlan) -> torch.dtype:
    """The dtype that most of the output's bytes have; a model runs in one.

    Raises:
        CheckpointError: No tensor is in floating point.
    """
    dtype = main_dtype(t.info for t in merge_plan.tensors)
    if dtype is None:
        raise CheckpointError(merge_plan.config_source, "holds no weights in floating point")
    return dtype
