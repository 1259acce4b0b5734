"""A pytest plugin with merge methods: one that keeps every promise, and others that each break one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from method_support import EXAMPLES, Example
from torch import Tensor

from evomerge.kernels import Chunk, Chunks, InputMeasure, Kernel, nothing
from evomerge.kernels.operations import ReferenceKernel
from evomerge.methods import Range, merge_method

Parameters = dict[str, Any]
Scale = Annotated[float, Range("factor", 0)]


def mean(chunk: Chunk) -> Tensor:
    total = torch.stack([x_RC.float() for x_RC in chunk.x_MRC]).sum(dim=0)
    return total / len(chunk.x_MRC)


def register(
    name: str,
    apply: Callable[[Chunk, float], Tensor],
    *,
    doc: str = "The mean.",
    measure: InputMeasure | Callable[[Parameters], InputMeasure] = nothing,
    has_example: bool = True,
) -> None:
    def prepare(found: float | None, *, scale: Scale = 1.0) -> float:
        return scale if found is None else found

    prepare.__doc__ = doc
    reference = ReferenceKernel(lambda chunk, number, _: apply(chunk, number))
    merge_method(f"plugin_{name}", source="tests", kernel=Kernel(name, reference), measure=measure)(prepare)
    if has_example:
        EXAMPLES[f"plugin_{name}"] = Example({"scale": 0.5})


def overwrites(chunk: Chunk, _: float) -> Tensor:
    if chunk.shape == (70, 33):  # of the suite's own, not of a model that other methods are tested with
        chunk.x_MRC[0].mul_(0.5)
    return mean(chunk)


def scale_of(parameters: Parameters) -> InputMeasure:
    """A statistic that depends on a searched parameter, under a name that does not."""
    scale: Any = parameters["scale"]

    def run(_: Chunks) -> float:
        return float(scale)

    return InputMeasure("scale", run)


register("fine", lambda chunk, scale: mean(chunk) * scale)
register("of_chunks", lambda chunk, _: mean(chunk) + chunk.shape[0])
register("shifted", lambda chunk, _: mean(chunk) + 1)
register("ordered", lambda chunk, scale: mean(chunk) * 0.5 + chunk.x_MRC[0].float() * 0.5)
register("of_storage", lambda chunk, _: mean(chunk) * chunk.x_MRC[0].dtype.itemsize / 4)
register("of_many", lambda chunk, _: mean(chunk) / torch.tensor(1.0 if chunk.x_MRC[0].numel() > 1 else 0.0))
register("hides_nan", lambda chunk, _: mean(chunk).nan_to_num())
register("overwrites", overwrites)
register("stale", lambda chunk, scale: mean(chunk) * scale, measure=scale_of)
register("without_words", lambda chunk, _: mean(chunk), doc="")
register("without_example", lambda chunk, _: mean(chunk), has_example=False)
