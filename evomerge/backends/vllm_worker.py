"""What runs inside vLLM's own worker processes: the sources, and the merge into vLLM's weights.

vLLM imports this module in each of its workers, as it is told the name of ``MergeCalls``. So the
weight-transfer engine is known there without a plugin of vLLM's. The merge engine is imported when a model is
there already: see ``vllm_engine`` for what vLLM does to modules that it finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from evomerge.errors import CandidateError, UserError
from evomerge.recipe import parse_recipe

__all__ = ["ENGINE", "EXTENSION", "MergeCalls", "MergeEngine"]

ENGINE = "evomerge"
"""Name of the weight-transfer engine."""
EXTENSION = "evomerge.backends.vllm_worker.MergeCalls"


@dataclass
class Sources(WeightTransferInitInfo):  # type: ignore[misc]
    """The models of all recipes: names and references; where relative paths start; threads that merge."""

    models: list[list[str]]
    folder: str
    threads: int


@dataclass
class Candidate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One merge: the document of its recipe."""

    recipe: dict[str, Any]


class MergeEngine(WeightTransferEngine[Sources, Candidate]):  # type: ignore[misc]
    """Takes recipes and makes the weights here, from sources of its own; tensors never travel.

    Each worker merges every tensor as a whole, so that all methods work and fingerprints are those of files.
    vLLM's weight loaders take from it what the worker holds of the model, fused and packed as they please.
    """

    init_info_cls = Sources
    update_info_cls = Candidate
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: Sources) -> None:
        """Opens the sources."""
        from evomerge.engine.in_place import InPlaceMerge
        from evomerge.engine.sources import open_sources

        references = dict(init_info.models)
        self._merge = InPlaceMerge(
            open_sources(references, (Path(), Path(init_info.folder))),
            device=self.device,
            threads=init_info.threads,
        )
        self._tied = _tied(self.model)
        self.merged: dict[str, str] = {}
        """Of the last merge ``fingerprint``, or ``failure`` (its kind) and ``reason``, or ``error``."""

    def start_weight_update(self) -> None:
        """Prepares vLLM's layers to be loaded again."""
        self.merged = {}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Candidate) -> None:
        """Merges the recipe into the model; ``merged`` says what became of it."""
        try:
            fingerprint = self._merge.hand_over(parse_recipe(update_info.recipe), self._take)
            self.merged = {"fingerprint": fingerprint}
        except CandidateError as exception:  # exceptions of ours do not cross vLLM's processes
            self.merged = {"failure": exception.kind.value, "reason": exception.reason}
        except UserError as exception:
            self.merged = {"error": exception.reason, "where": exception.where, "hint": exception.hint}

    def finish_weight_update(self) -> None:
        """Brings up to date what vLLM derives from the weights.

        It does so for layers that were loaded. Of tied ones only one is; on a CPU the others have copies.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        for layer in self._tied.values():
            layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        """Frees the sources."""
        merge = getattr(self, "_merge", None)
        if merge is not None:
            merge.close()

    def _take(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        wanted = {name for name, _ in self.model.named_parameters()}
        loaded = self.model.load_weights(tensors)
        for _ in tensors:  # what vLLM has no use for counts in the fingerprint
            pass
        lacking = sorted(wanted - loaded - set(self._tied)) if loaded is not None else []
        if lacking:
            raise ValueError(f"the merge has no weights for {', '.join(lacking[:8])}")


def _tied(model: nn.Module) -> dict[str, Any]:
    """The layers whose weight is that of a layer before, by the name of that weight."""
    first: set[int] = set()
    found: dict[str, Any] = {}
    for name, layer in model.named_modules():
        for parameter, weight in layer.named_parameters(recurse=False):
            if weight.data_ptr() in first and hasattr(layer, "quant_method"):
                found[f"{name}.{parameter}"] = layer
            if weight.numel():
                first.add(weight.data_ptr())
    return found


class MergeCalls:
    """What a worker of vLLM's can be asked by name, besides its own calls."""

    weight_transfer_engine: Any

    def evomerge_merged(self) -> dict[str, str]:
        """What became of the last merge; see ``MergeEngine.merged``."""
        return dict(self.weight_transfer_engine.merged)


if ENGINE not in WeightTransferEngineFactory._registry:  # noqa: SLF001 (registering twice is an error there)
    WeightTransferEngineFactory.register_engine(ENGINE, MergeEngine)
