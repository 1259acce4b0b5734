"""What a search needs in memory, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.plan import MergePlan

__all__ = ["MemoryPlan", "memory_plan"]


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes per worker. On the CPU sources are mapped files: they take page cache, not memory."""

    sources: int
    live_model: int
    device: str
    sources_in: str

    @property
    def resident(self) -> int:
        """What must fit on the device."""
        return self.live_model + (self.sources if self.device != "cpu" else 0)


def memory_plan(
    checkpoints: Mapping[str, Checkpoint], merge_plan: MergePlan, device: str, itemsize: int | None
) -> MemoryPlan:
    """The plan for one worker; ``itemsize`` is that of the compute dtype if it differs from the output's."""
    sources = sum(checkpoint.bytes for checkpoint in checkpoints.values())
    live = merge_plan.bytes
    if itemsize is not None:
        live = sum(t.info.bytes // t.dtype.itemsize * itemsize for t in merge_plan.tensors)
    where = "mapped files" if device == "cpu" else "device memory"
    return MemoryPlan(sources, live, device, where)
