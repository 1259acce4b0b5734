"""What a backend is: a resident model that can be filled and asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evomerge.fitness.askable import Askable
from evomerge.recipe import Recipe

__all__ = ["ModelSettings", "ResidentModel"]


@dataclass(frozen=True)
class ModelSettings:
    """All that a backend needs to know; picklable, so that a library's own processes can be told, too.

    ``models`` are the models of every recipe to come: the names that recipes use, and the references they
    stand for. ``folder`` is where relative paths start. ``dtype`` is what the model calculates in (``None`` =
    the dtype of the merge). ``threads`` is how many threads merge. ``engine_args`` are arguments of the
    library that runs the model, ``quantization`` how it stores weights, where a backend has these.
    """

    models: tuple[tuple[str, str], ...]
    folder: Path
    device: str = "auto"
    dtype: str | None = None
    threads: int = 1
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    quantization: str | None = None


class ResidentModel(Askable, Protocol):
    """A model that stays in memory while its weights change; lm-eval asks it through ``lm``.

    Where the tensors of a merge go is its own affair: the process that holds the weights lets
    ``engine.in_place.InPlaceMerge`` write into them (``Weights``: ``place``, ``settle``). Only recipes and
    fingerprints pass through here, so that this may be another process than the caller's.
    """

    def load(self, recipe: Recipe) -> str:
        """Makes it the merge of ``recipe``; the fingerprint, which is that of the merge on disk.

        What was loaded before leaves no trace. After an error the weights are undefined until the next
        ``load`` that succeeds.

        Raises:
            CandidateError: The weights hold NaN or infinity, or memory ran out.
            RecipeError, CheckpointError: The recipe does not fit the models.
        """
        ...

    @property
    def config_digest(self) -> str | None:
        """Digest of what decides answers besides the weights last loaded: ``config_digest`` of their plan.

        ``None``: not known, so that models with equal weights are not taken for equal.
        """
        ...

    def close(self) -> None:
        """Frees the model and the sources; may be called twice."""
        ...
