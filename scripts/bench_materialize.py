"""Candidates per second of the materializer against the copy bandwidth of the same device, in one run.

    python scripts/bench_materialize.py [--parameters 200e6] [--device cpu] [--threads 2] [--runs 5]
    python scripts/bench_materialize.py --device cuda --parameters 7e9

What must move is every input read once and the live model written once. `bandwidth` is that per second, as a
share of what copies reach in the same minutes (bytes read and written). Models are random and lie on the
device; statistics are measured before the first run, as in a search; a candidate ends with its fingerprint.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from bench_merge import llama_like, recipes
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint, TensorInfo
from evomerge.engine.compute import ComputePool, merge_tensor, rows_of
from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.inputs import Inputs
from evomerge.engine.plan import MergePlan, TensorPlan
from evomerge.engine.statistics import Statistics
from evomerge.kernels import Digest, InMemory
from evomerge.recipe import parse_recipe

MODELS = 4
COPIED = 2**30
"""Bytes of the buffer that is copied: much more than any cache holds."""


class Resident:
    """The tensors of a model that lies on the device."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def read(self, name: str) -> Tensor:
        return self._tensors[name]

    def is_mapped(self, name: str) -> bool:  # noqa: ARG002
        return True

    def release(self, name: str, first: int = 0, end: int | None = None) -> None:
        pass


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def models(folder: Path, parameters: float, device: torch.device) -> dict[str, Checkpoint]:
    """A base and fine-tunes of it, bfloat16."""
    shapes, config = llama_like(parameters)
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator(device).manual_seed(0)
    tensors: list[dict[str, Tensor]] = [{} for _ in range(MODELS)]
    for name, shape in shapes.items():
        base = torch.randn(shape, generator=generator, device=device) * 0.02
        for i, model in enumerate(tensors):
            change = torch.randn(shape, generator=generator, device=device) * 0.001 if i else 0.0
            model[name] = (base + change).to(torch.bfloat16)
    infos = {name: TensorInfo(shape, torch.bfloat16) for name, shape in shapes.items()}
    return {f"m{i}": Checkpoint(folder, config, infos, Resident(t)) for i, t in enumerate(tensors)}


def candidate_of(
    plan: MergePlan, live: Mapping[str, Tensor], pool: ComputePool, checkpoints: Mapping[str, Checkpoint]
) -> Callable[[], str]:
    """One candidate from sources on the device to the fingerprint of its weights."""
    statistics_ = Statistics()

    def read(model: str, name: str) -> Tensor:
        return checkpoints[model].read(name)

    def fill(tensor: TensorPlan) -> Digest:
        return merge_tensor(tensor, read, statistics_, InMemory(rows_of(live[tensor.name])))

    return lambda: fingerprint(plan.tensors, pool.fill(fill, plan.tensors))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=float, default=200e6)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--methods", default="")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    device = torch.device(arguments.device)
    # A GPU is kept busy by one thread; more of them only wait for each other.
    threads = arguments.threads or (1 if device.type == "cuda" else os.cpu_count() or 1)
    torch.set_num_threads(threads)
    wanted = arguments.methods.split(",") if arguments.methods else None
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        checkpoints = models(Path(folder), arguments.parameters, device)
        size = checkpoints["m0"].bytes
        source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
        target = torch.ones(COPIED, dtype=torch.uint8, device=device)
        live: dict[str, Tensor] = {}
        pool = ComputePool(threads)
        print(f"{size / 2e6:.0f}M parameters, bfloat16, {_name(device)}, {threads} threads")
        print(f"{'method':18}{'candidate s':>12}{'copy s':>9}{'ratio':>7}{'bandwidth':>11}{'a second':>10}")
        for method, document in recipes().items():
            if wanted is not None and method not in wanted:
                continue
            plan = Inputs(checkpoints).plan(parse_recipe(document))
            live = live or {t.name: torch.empty(t.shape, dtype=t.dtype, device=device) for t in plan.tensors}
            candidate = candidate_of(plan, live, pool, checkpoints)
            candidate()  # compiles, measures
            candidate()  # starts kernels as it will from now on
            moved = (len(plan.tensors[0].inputs) + 1) * size
            merges, copies = [], []
            for _ in range(arguments.runs):
                copies.append(seconds(lambda: target.copy_(source), device) * moved / (2 * COPIED))
                merges.append(seconds(candidate, device))
            merge, copied = statistics.median(merges), statistics.median(copies)
            ratio = statistics.median(m / c for m, c in zip(merges, copies, strict=True))
            figures = f"{merge:12.4f}{copied:9.4f}{ratio:7.2f}{1 / ratio:11.0%}{1 / merge:10.2f}"
            print(f"{method:18}{figures}", flush=True)
        pool.close()


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
