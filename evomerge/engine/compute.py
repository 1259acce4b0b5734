"""Computes one tensor of a plan from its inputs: measure, prepare, reduce, apply.

The same function fills the live model and the files on disk, chunk by chunk.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from evomerge import kernels
from evomerge.engine.fingerprint import check_finite
from evomerge.engine.plan import Input, MergePlan, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.errors import CheckpointError, RecipeError, together
from evomerge.kernels import ROW_BLOCK, Chunk, Destination, Digest, Sink, key_of, write_rows
from evomerge.methods import MergeMethod, get_method

__all__ = ["ComputePool", "Read", "check_tables", "merge_tensor", "rows_of"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_RELEASE_ELEMENTS = 1 << 24
"""Elements after which processed rows are released: the memory of a merge must not grow with its tensors."""

_set_num_threads = torch.set_num_threads
"""torch's own: vLLM replaces the name in torch by a function that does nothing."""

Release = Callable[[int, int], None]
"""(first row, end) of rows that are not needed for now."""

Read = Callable[[str, str], Tensor]
"""(model reference, tensor name) -> the tensor, on the device it is computed on."""


def merge_tensor(
    tensor: TensorPlan,
    read: Read,
    statistics: Statistics,
    destination: Destination,
    *,
    chunk_elements: int | None = None,
    release: Release | None = None,
) -> Digest:
    """Writes one output tensor to ``destination``; returns its digest in the output dtype.

    ``release`` is called from time to time with the rows that a pass over the tensor has processed.

    On a GPU nothing waits for the result: the digest stays there, and also says whether all is finite.

    Raises:
        CandidateError: The result holds NaN or infinity (on a CPU).
        RecipeError: The parameters do not work for these inputs.
        CheckpointError: Integer or boolean inputs differ.
    """
    method = get_method(tensor.method)
    x_MRC = [rows_of(read(i.model, i.tensor).contiguous()) for i in tensor.inputs]
    digest = Digest.on(x_MRC[0].device)
    if not x_MRC[0].numel():
        return digest
    if not tensor.dtype.is_floating_point:
        _check_equal(tensor, x_MRC)
    if not tensor.dtype.is_floating_point or _is_shared_limit(tensor, x_MRC):
        same_RC = x_MRC[0].to(tensor.dtype)
        digest.add(same_RC, 0)
        destination.put(0, same_RC)
        return digest

    elements = chunk_elements or kernels.chunk_elements(digest.state.device)

    def chunks() -> Iterator[Chunk]:
        return _chunks(tensor, x_MRC, elements, release)

    scalars = _prepare(tensor, method, statistics.get(tensor, method, chunks))
    whole = _chunk(tensor, tuple(x_MRC), 0)
    write_rows(method.kernel, scalars, chunks, whole, Sink(destination, tensor.dtype, digest.state))
    if digest.state.device.type == "cpu":
        check_finite(tensor, digest)
    return digest


def check_tables(plans: Iterable[MergePlan]) -> None:
    """Check that integer and boolean tensors, which are copied, are the same in all models.

    Reads only these tensors, each once; other tensors of a plan need not be read for this.

    Raises:
        CheckpointError: Some differ; all are named.
    """
    errors: list[CheckpointError] = []
    seen: set[tuple[Input, ...]] = set()
    for plan in plans:
        for tensor in plan.tensors:
            if tensor.dtype.is_floating_point or tensor.inputs in seen:
                continue
            seen.add(tensor.inputs)
            try:
                x_MRC = [
                    rows_of(plan.checkpoints[i.model].read(i.tensor).contiguous()) for i in tensor.inputs
                ]
                _check_equal(tensor, x_MRC)
            except CheckpointError as exception:
                errors.append(exception)
    if errors:
        raise together(errors, "tensors cannot be copied")


def rows_of(tensor: Tensor) -> Tensor:
    """``tensor`` as (R, C), sharing its memory: all dimensions but the last become rows; a vector is one row.

    Raises:
        RuntimeError: No stride spans its dimensions.
    """
    return (
        tensor.view(1, -1) if tensor.dim() < 2 else tensor.view(tensor.shape[:-1].numel(), tensor.shape[-1])
    )


class ComputePool:
    """Threads that each compute one tensor at a time, with one torch thread each.

    torch's own threads would split a reduction differently on another number of cores; ours never share one.
    """

    def __init__(self, threads: int) -> None:
        self._threads = max(1, threads)
        self._pool = ThreadPoolExecutor(
            self._threads, "evomerge-compute", initializer=_set_num_threads, initargs=(1,)
        )

    def fill(self, function: Callable[[TensorPlan], Digest], tensors: Sequence[TensorPlan]) -> list[Digest]:
        """``function`` of each of the tensors; as ``map``."""
        return self.map(function, tensors, lambda tensor: tensor.info.bytes)

    def map(
        self,
        function: Callable[[_Item], _Result],
        items: Sequence[_Item],
        size: Callable[[_Item], int] = lambda _: 0,
    ) -> list[_Result]:
        """``function`` of each item, in their order; the first exception is raised, the rest dropped.

        Items of the largest ``size`` are begun first, so that no thread is left alone with one at the end.
        """
        by_size = sorted(range(len(items)), key=lambda i: -size(items[i]))
        futures = {i: self._pool.submit(function, items[i]) for i in by_size}
        try:
            return [futures[i].result() for i in range(len(items))]
        finally:
            for future in futures.values():
                future.cancel()

    def in_turn(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """``function`` of each item, in their order; each thread is at most one item ahead of who asks."""
        left = iter(items)
        begun: deque[Future[_Result]] = deque()
        try:
            while True:
                for item in islice(left, 1 + self._threads - len(begun)):
                    begun.append(self._pool.submit(function, item))
                if not begun:
                    return
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _prepare(tensor: TensorPlan, method: MergeMethod, statistic: Any) -> Any:
    arguments: dict[str, Any] = {
        (name if name.isidentifier() and name != "lambda" else f"{name}_"): value
        for name, value in tensor.parameters.items()
    }
    if "has_base" in method.context:
        arguments["has_base"] = tensor.has_base
    if "key" in method.context:
        arguments["key"] = key_of(tensor.name)
    try:
        with np.errstate(all="ignore"):  # what comes of infinite weights is found when it is written
            return method.prepare(statistic, **arguments)
    except ValueError as exception:
        raise RecipeError("parameters", f"{method.name}: {exception} (tensor {tensor.name})") from None


def _check_equal(tensor: TensorPlan, x_MRC: Sequence[Tensor]) -> None:
    """Integers and booleans are tables, masks or counts: they cannot be averaged."""
    common_MRC = [x_RC.to(tensor.dtype) for x_RC in x_MRC]
    other = [
        f"{i.model} ({i.tensor})"
        for i, x_RC in zip(tensor.inputs, common_MRC, strict=True)
        if not torch.equal(x_RC, common_MRC[0])
    ]
    if other:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            tensor.inputs[0].model,
            f"{tensor.name} holds {dtype}, not weights, and differs in {', '.join(other)}",
            "Such a tensor is copied where all models agree; store the same one in all of them.",
        )


def _is_shared_limit(tensor: TensorPlan, x_MRC: Sequence[Tensor]) -> bool:
    """Whether it is a single number that is infinite in all models: a setting (do not clip), not a weight."""
    if tensor.shape != ():
        return False
    values = [float(x) for x in x_MRC]  # not `isinf`, which torch has not for every dtype
    return math.isinf(values[0]) and len(set(values)) == 1


def _chunk(tensor: TensorPlan, x_MRC: tuple[Tensor, ...], row: int) -> Chunk:
    period = math.prod(tensor.shape[1:-1])
    return Chunk(x_MRC, row, has_base=tensor.has_base, is_vector=len(tensor.shape) < 2, period=period)


def _chunks(
    tensor: TensorPlan, x_MRC: Sequence[Tensor], elements: int, release: Release | None
) -> Iterator[Chunk]:
    rows, columns = x_MRC[0].shape
    released = 0
    step = max(1, elements // (max(1, columns) * ROW_BLOCK)) * ROW_BLOCK
    for row in range(0, rows, step):
        parts = x_MRC if step >= rows else [x_RC[row : row + step] for x_RC in x_MRC]
        yield _chunk(tensor, tuple(parts), row)
        done = min(row + step, rows)
        if release is not None and (done - released) * columns >= _RELEASE_ELEMENTS:
            release(released, done)
            released = done
