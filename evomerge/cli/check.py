"""evomerge check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from evomerge.cli._console import console, print_json, warn
from evomerge.cli._preflight import preflight
from evomerge.errors import UserError

if TYPE_CHECKING:
    from evomerge.engine.memory import MemoryPlan
    from evomerge.engine.plan import MergePlan
    from evomerge.fitness import TaskInfo
    from evomerge.search.experiment import Experiment

__all__ = ["command"]


def command(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Validate an experiment: models, recipe, tasks, splits, memory. Loads no weights."""
    from evomerge.checkpoints.checkpoint import DTYPES, dtype_name
    from evomerge.engine.device import resolve_device
    from evomerge.engine.memory import memory_plan
    from evomerge.fitness import Evaluator
    from evomerge.search.experiment import Experiment

    loaded = Experiment.load(experiment)
    checked = preflight(loaded)
    try:
        tasks = Evaluator(loaded.fitness, loaded.path.parent).describe()
    except UserError as exception:
        raise exception.within(str(experiment)) from None
    workers = loaded.spec.workers
    size = {dtype_name(d): d.itemsize for d in DTYPES.values()}.get(workers.dtype or "")
    memory = memory_plan(checked.checkpoints, checked.plan, resolve_device(workers.device), size)
    warnings = list(dict.fromkeys(checked.plan.warnings))
    if json_:
        print_json(_document(loaded, checked.plan, tasks, memory, warnings))
        return
    _print(loaded, checked.plan, tasks, memory)
    for warning in warnings:
        warn(warning)
    console.print("Everything fits.")


def _print(
    experiment: Experiment, merge_plan: MergePlan, tasks: tuple[TaskInfo, ...], memory: MemoryPlan
) -> None:
    from evomerge.fitness.scores import Split

    space = experiment.space
    table = Table(title=f"{len(space.dimensions)} dimensions", title_justify="left", title_style="bold")
    for name in ("hole", "kind", "from", "to", "start", "scale"):
        table.add_column(name)
    values = space.decode(space.start())
    for d in space.dimensions:
        low, high = (str(d.choices[0]), str(d.choices[-1])) if d.choices else (f"{d.low:g}", f"{d.high:g}")
        start = values[d.name]
        shown = f"{start:g}" if isinstance(start, float) else str(start)
        table.add_row(d.name, d.kind, low, high, shown, "log" if d.log else "")
    console.print(table)
    table = Table(title="Evaluation", title_justify="left", title_style="bold")
    for name in ("task", "metric", "kind", "weight", *(s.value for s in Split)):
        table.add_column(name)
    for t in tasks:
        better = "higher" if t.higher_is_better else "lower"
        table.add_row(
            t.task,
            f"{t.metric} ({better})",
            t.output_type,
            f"{t.weight:g}",
            *(str(t.items[s]) for s in Split),
        )
    console.print(table)
    search, workers = experiment.spec.search, experiment.spec.workers
    console.print(f"Baselines: {', '.join(b.name for b in experiment.baselines())}")
    console.print(f"Search: {search.sampler}, {search.trials} candidates, seed {search.seed}")
    console.print(f"Merge: {len(merge_plan.tensors)} tensors, {_mib(merge_plan.bytes)}")
    console.print(
        f"Memory of a worker on {memory.device}: live model {_mib(memory.live_model)}, "
        f"sources {_mib(memory.sources)} in {memory.sources_in}; {workers.count} worker(s), {workers.backend}"
    )
    console.print(f"Run folder: {experiment.folder}", markup=False)


def _document(
    experiment: Experiment,
    merge_plan: MergePlan,
    tasks: tuple[TaskInfo, ...],
    memory: MemoryPlan,
    warnings: list[str],
) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "dimensions": [
            {
                "name": d.name,
                "kind": d.kind,
                "low": d.low,
                "high": d.high,
                "log": d.log,
                "choices": list(d.choices),
            }
            for d in experiment.space.dimensions
        ],
        "tasks": [
            {
                "task": t.task,
                "metric": t.metric,
                "output_type": t.output_type,
                "weight": t.weight,
                "items": {split.value: count for split, count in t.items.items()},
            }
            for t in tasks
        ],
        "baselines": [b.name for b in experiment.baselines()],
        "models": dict(experiment.references),
        "tensors": len(merge_plan.tensors),
        "bytes": merge_plan.bytes,
        "memory": {
            "device": memory.device,
            "live_model": memory.live_model,
            "sources": memory.sources,
            "sources_in": memory.sources_in,
        },
        "warnings": warnings,
    }


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
