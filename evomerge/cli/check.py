"""evomerge check."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli._console import console, plain_table, print_json, say, warn, warn_of_trust

if TYPE_CHECKING:
    from evomerge.runs.experiment import Experiment
    from evomerge.runs.run import Check

__all__ = ["command"]


def command(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Validate an experiment: models, recipe, tasks, splits, memory. Loads no weights."""
    from evomerge.runs.experiment import Experiment
    from evomerge.runs.run import Run

    loaded = Experiment.load(experiment)
    warn_of_trust(loaded.fitness)
    checked = Run(loaded).check()
    if json_:
        print_json(_document(loaded, checked))
        return
    _print(loaded, checked)
    for warning in checked.warnings:
        warn(warning)
    console.print("Everything fits.")


def _print(experiment: Experiment, checked: Check) -> None:
    from evomerge.fitness.scores import Split
    from evomerge.report.tables import search_text

    space = experiment.space
    count = f"{len(space.dimensions)} dimension{'s' if len(space.dimensions) > 1 else ''}"
    table = plain_table(count, ("hole", "kind", "range", "start", "scale"))
    values = space.decode(space.start())
    for d in space.dimensions:
        span = ", ".join(map(str, d.choices)) if d.choices else f"{d.low:g} .. {d.high:g}"
        start = values[d.name]
        shown = f"{start:g}" if isinstance(start, float) else str(start)
        table.add_row(d.name, d.kind, span, shown, "log" if d.log else "")
    console.print(table)
    splits = [s.value for s in Split]
    columns = ("task", "metric", "kind", "weight", *splits)
    table = plain_table("Items of each task", columns, ["weight", *splits])
    for t in checked.tasks:
        table.add_row(
            t.task,
            f"{t.metric}\u00a0{'↑' if t.higher_is_better else '↓'}",  # as lm-eval says which is better
            t.output_type.replace("_", " "),
            f"{t.weight:g}",
            *(str(t.items[s]) for s in Split),
        )
    console.print(table)
    for t in checked.tasks:
        if t.num_fewshot:
            some = f"{t.num_fewshot} example{'s' if t.num_fewshot > 1 else ''}"
            say(f"{t.task}: {some} in each prompt, from {t.examples}")
    if any(t.chat for t in checked.tasks):
        for t in checked.tasks:
            say(f"{t.task}: {f'asked with {t.chat}' if t.chat else 'asked without chat'}")
    for spec in experiment.fitness.tasks:
        if spec.measure != "metric":
            say(f"{spec.task}: the search goes by its {spec.measure}, validation and test by its metric")
        if spec.python is not None:
            say(f"{spec.task}: your Python code in {spec.python}, which runs with all that you may do here")
    workers, memory = experiment.spec.workers, checked.memory
    say(f"Baselines: {', '.join(checked.baselines)}")
    say(search_text(experiment.spec.search, space.dimensions))
    say(f"Merge: {checked.tensors} tensors, {_mib(checked.bytes)}")
    say(
        f"Memory of a worker on {memory.device}: live model {_mib(memory.live_model)}, "
        f"sources {_mib(memory.sources)} in {memory.sources_in}; {workers.count} worker(s), {workers.backend}"
    )
    console.print(f"Run folder: {experiment.folder}")


def _document(experiment: Experiment, checked: Check) -> dict[str, Any]:
    memory = checked.memory
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
            for d in checked.dimensions
        ],
        "tasks": [
            {
                "task": t.task,
                "metric": t.metric,
                "output_type": t.output_type,
                "weight": t.weight,
                "num_fewshot": t.num_fewshot,
                "examples": t.examples,
                "chat": None if t.chat is None else asdict(t.chat),
                "items": {split.value: count for split, count in t.items.items()},
            }
            for t in checked.tasks
        ],
        "search": experiment.spec.search.with_defaults(experiment.space.dimensions),
        "baselines": list(checked.baselines),
        "models": dict(experiment.references),
        "tensors": checked.tensors,
        "bytes": checked.bytes,
        "memory": {
            "device": memory.device,
            "live_model": memory.live_model,
            "sources": memory.sources,
            "sources_in": memory.sources_in,
        },
        "warnings": list(checked.warnings),
    }


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
