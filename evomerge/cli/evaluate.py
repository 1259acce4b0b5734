"""evomerge eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli._console import console, interval, number, plain_table, print_json, warn_of_trust
from evomerge.errors import ExperimentError, did_you_mean

if TYPE_CHECKING:
    from evomerge.fitness.spec import FitnessSpec
    from evomerge.runs.experiment import WorkersSpec

__all__ = ["command"]

_SPLITS = ("search", "validation", "test")
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def command(
    model_dir: Annotated[str, typer.Argument(help="A model folder or a hub id.")],
    fitness: Annotated[
        Path, typer.Option(help="An experiment file, or a file with a fitness section alone.")
    ],
    split: Annotated[str, typer.Option(help="Items to score: search, validation or test.")] = "test",
    device: Annotated[str, typer.Option(help="Where to run: auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="Dtype of the computation; the experiment's if not given.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the scores as JSON, with every item.")] = False,
) -> None:
    """Score any model on the items of an experiment."""
    if split not in _SPLITS:
        raise ExperimentError("--split", f"there is no split {split!r}", did_you_mean(split, _SPLITS))
    if dtype is not None and dtype not in _DTYPES:
        raise ExperimentError("--dtype", f"{dtype!r} is not a supported dtype", did_you_mean(dtype, _DTYPES))
    spec, workers = _fitness(fitness)
    warn_of_trust(spec)
    from evomerge.engine.device import resolve_device
    from evomerge.errors import CandidateError
    from evomerge.fitness.items import ItemSet
    from evomerge.fitness.objectives import Fitness
    from evomerge.fitness.scores import Split
    from evomerge.recipe import parse_recipe
    from evomerge.workers.jobs import Job
    from evomerge.workers.worker import Worker, WorkerSpec

    worker = Worker(
        WorkerSpec(
            models=(("model", model_dir),),
            fitness=spec,
            folder=fitness.parent,
            device=resolve_device(device),
            dtype=dtype or workers.dtype,
            engine=workers.chosen_engine,
            engine_args=workers.engine_args or {},
            quantization=workers.quantization,
        )
    )
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": "model"}]})
    outcome = worker.run(Job("model", recipe, ItemSet(Split(split))))
    if outcome.scores is None:
        failure = outcome.failure
        raise (
            CandidateError(failure.kind, failure.reason) if failure else RuntimeError("no scores, no failure")
        )
    judge = Fitness.of(spec)
    low, high = judge.interval(outcome.scores)
    if json_:
        print_json(
            {
                "model": model_dir,
                "score": judge.score(outcome.scores),
                "interval_95": [low, high],
                "fingerprint": outcome.fingerprint,
                **outcome.scores.document(),
            }
        )
        return
    numbers = ("value", "95 % interval", "items")
    table = plain_table(f"{model_dir} on {split} items", ("task", "metric", *numbers), numbers)
    for task in outcome.scores.tasks:
        first, last = judge.task_interval(task)
        table.add_row(
            task.task,
            task.metric,
            number(task.value),
            interval(first, last),
            str(len(task.items)),
        )
    table.add_section()
    table.add_row("score", "weighted mean", number(judge.score(outcome.scores)), interval(low, high), "")
    console.print(table)


def _fitness(path: Path) -> tuple[FitnessSpec, WorkersSpec]:
    """The fitness of an experiment file, or of a file that holds only that section, and who scores."""
    from evomerge.errors import UserError
    from evomerge.fitness.spec import FitnessSpec
    from evomerge.recipe import parse, read_yaml
    from evomerge.runs.experiment import WorkersSpec, fitness_of_document

    document: dict[str, Any] = read_yaml(path, ExperimentError)
    try:
        section = document.get("fitness", document)
        spec = fitness_of_document(parse(FitnessSpec, section, ExperimentError), path)
        workers = (document.get("workers") or {}) if "fitness" in document else {}
        return spec, parse(WorkersSpec, workers, ExperimentError)
    except UserError as exception:
        raise exception.within(str(path)) from None
