"""Candidates per second of the materializer against the copy bandwidth of the same device, in one run.

    python scripts/bench_materialize.py [--parameters 200e6] [--device cpu] [--threads 2] [--runs 5]

The copy reads and writes as many bytes as a candidate reads (all inputs) and writes (the live model).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_merge import make_models, recipes

from evomerge.engine.compute import ComputePool, merge_tensor, rows_of
from evomerge.engine.inputs import Inputs
from evomerge.engine.plan import TensorPlan
from evomerge.engine.sources import open_sources
from evomerge.engine.statistics import Statistics
from evomerge.methods import Digest
from evomerge.recipe import parse_recipe


def seconds(function: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=float, default=200e6)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--methods", default="")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    wanted = arguments.methods.split(",") if arguments.methods else None
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        size = make_models(folder, arguments.parameters, 4)
        checkpoints = open_sources({f"m{i}": str(folder / f"m{i}") for i in range(4)})
        resident = {(m, n): c.read(n).clone().to(device) for m, c in checkpoints.items() for n in c.tensors}
        print(f"{size / 2e6:.0f}M parameters, bfloat16, {device}, {arguments.threads} threads")
        print(f"{'method':18}{'candidate s':>12}{'copy s':>9}{'ratio':>7}{'a second':>10}")
        pool = ComputePool(arguments.threads)
        for method, document in recipes().items():
            if wanted is not None and method not in wanted:
                continue
            merge_plan = Inputs(checkpoints).plan(parse_recipe(document))
            live = {t.name: torch.empty(t.shape, dtype=t.dtype, device=device) for t in merge_plan.tensors}
            statistics_ = Statistics()

            def fill(tensor: TensorPlan) -> Digest:
                place_RC = rows_of(live[tensor.name])  # noqa: B023
                return merge_tensor(tensor, lambda m, n: resident[m, n], statistics_, place_RC)  # noqa: B023

            def candidate() -> None:
                pool.map(fill, merge_plan.tensors)  # noqa: B023

            inputs = len(merge_plan.tensors[0].inputs)
            half = (inputs + 1) * size // 2
            source = torch.zeros(half, dtype=torch.uint8, device=device)
            target = torch.ones(half, dtype=torch.uint8, device=device)
            candidate()  # compiles, measures
            merges, copies = [], []
            for _ in range(arguments.runs):
                copies.append(seconds(lambda: target.copy_(source), device))  # noqa: B023
                merges.append(seconds(candidate, device))
            merge = statistics.median(merges)
            ratio = statistics.median(m / c for m, c in zip(merges, copies, strict=True))
            copied = statistics.median(copies)
            print(f"{method:18}{merge:12.3f}{copied:9.3f}{ratio:7.2f}{1 / merge:10.2f}", flush=True)
        pool.close()


if __name__ == "__main__":
    main()
