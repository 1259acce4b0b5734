"""The memory that a search needs, and where its sources are kept; computed before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import psutil

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.plan import MergePlan

__all__ = ["MemoryPlan", "SourcesIn", "free_on", "memory_plan", "place_for_sources"]

_DEVICE_SHARE = 0.85
"""Share of a device's free memory; the rest is for activations and the cache of generation."""
_HOST_SHARE = 0.7
"""Share of the host's available memory; pinned pages cannot be swapped out."""


class SourcesIn(StrEnum):
    """Where the sources of a search stay between candidates, the fastest first."""

    DEVICE = "device memory"
    PINNED = "pinned host memory"
    MAPPED = "mapped files"


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes per worker. Sources in mapped files take page cache, not memory.

    ``live_model`` is also the peak while the model is built, but for the experts of one layer. A model that
    must be loaded again for each candidate (docs/architectures.md) takes up to twice as much meanwhile.
    """

    sources: int
    live_model: int
    device: str
    sources_in: SourcesIn


def memory_plan(
    checkpoints: Mapping[str, Checkpoint], merge_plan: MergePlan, device: str, itemsize: int | None
) -> MemoryPlan:
    """The plan for one worker; ``itemsize`` is that of the compute dtype if it differs from the output's."""
    sources = sum(checkpoint.bytes for checkpoint in checkpoints.values())
    live = merge_plan.bytes
    if itemsize is not None:
        live = sum(t.info.bytes // t.dtype.itemsize * itemsize for t in merge_plan.tensors)
    on_device, on_host = free_on(device)
    return MemoryPlan(sources, live, device, place_for_sources(sources, live, on_device, on_host))


def place_for_sources(sources: int, live_model: int, on_device: int | None, on_host: int) -> SourcesIn:
    """The fastest place that has room; ``on_device`` is None where the device is the host itself.

    On a CPU sources are mapped files in any case: reading them costs nothing once they are in the page cache.
    """
    if on_device is None:
        return SourcesIn.MAPPED
    if sources + live_model <= _DEVICE_SHARE * on_device:
        return SourcesIn.DEVICE
    return SourcesIn.PINNED if sources <= _HOST_SHARE * on_host else SourcesIn.MAPPED


def free_on(device: str) -> tuple[int | None, int]:
    """Free bytes on ``device`` (None for a CPU), and bytes that the host can give."""
    on_device = None
    if device != "cpu":
        import torch

        on_device = int(torch.cuda.mem_get_info(torch.device(device))[0])
    return on_device, int(psutil.virtual_memory().available)
