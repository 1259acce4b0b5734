"""What must be right before a search starts: models that open, recipes that fit them, tasks with items."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.cli._console import warn
from evomerge.cli._studies import RUN_FILE, RunFile, run_file_kind
from evomerge.errors import CheckpointError, ExperimentError, OutputError, UserError

if TYPE_CHECKING:
    from evomerge.checkpoints.checkpoint import Checkpoint
    from evomerge.engine.inputs import Inputs
    from evomerge.engine.plan import MergePlan
    from evomerge.fitness import Evaluator, Split, TaskInfo
    from evomerge.fitness.scored import ScoredDigest
    from evomerge.fitness.spec import FitnessSpec
    from evomerge.recipe import Recipe
    from evomerge.search.experiment import Experiment, WorkersSpec
    from evomerge.search.study import Known

__all__ = ["Preflight", "announce", "preflight", "without_effect"]

_SHOWN = 5
_OF_NO_ONE = {".DS_Store", ".gitignore", ".gitkeep", "lost+found"}
"""Names that do not make a folder somebody's."""


@dataclass(frozen=True)
class Preflight:
    """The models of an experiment, opened; the plan of the recipe that its search starts from; its tasks.

    ``sources`` are digests of what the models hold, ``scored`` of the tasks, ``warnings`` what the user
    should know.
    """

    checkpoints: dict[str, Checkpoint]
    plan: MergePlan
    tasks: tuple[TaskInfo, ...]
    sources: dict[str, str]
    scored: ScoredDigest
    warnings: tuple[str, ...]


def announce(fitness: FitnessSpec) -> None:
    """Says so if untrusted code may run; before anything of it is opened."""
    if fitness.trust_remote_code:
        warn(
            "fitness.trust_remote_code is on: Python code that comes with a model, a dataset or a task "
            "definition may run, with all that you may do on this machine."
        )


def preflight(experiment: Experiment, *, dry: bool = False) -> Preflight:
    """All that a search can know before its first candidate, for ``check`` and ``search`` alike.

    Opens the models, plans the first candidate and every baseline, has transformers build the model without
    its weights, makes the sampler, builds the tasks and one request of each with the real tokenizer, and
    looks at the storage and the run's folder. Reads headers only and writes nothing: a study keeps the
    experiment that it was created with, so all this comes before there is a study. ``dry``: no search
    follows, so the study is looked at (a search opens it itself, and waits for a server that is away), and
    each prompt is compared with the model's context.

    Raises:
        UserError: Something does not fit; the experiment file is named.
    """
    from evomerge.engine.sources import identities
    from evomerge.fitness import Evaluator
    from evomerge.fitness.scores import Split
    from evomerge.search.samplers import make_sampler
    from evomerge.search.study import known, refuse_foreign, storage_file

    file = storage_file(experiment.storage)
    is_new = file is not None and not file.exists()
    if file is not None and not is_new:
        refuse_foreign(experiment.storage)
    _check_folder(experiment.folder)
    _check_run_folder(experiment.folder, experiment.path, file)
    study = known(experiment.storage, experiment.name, wait=not dry)
    try:
        _check_workers(experiment.spec.workers)
        make_sampler(experiment.sampler(), experiment.space.dimensions)
        space = experiment.space
        recipe = space.fill(space.decode(space.start()))
        inputs, first = _first_plan(experiment, recipe)
        warnings = dict.fromkeys(first.warnings)
        for baseline in experiment.baselines():
            warnings |= dict.fromkeys(inputs.plan(baseline.recipe).warnings)
        evaluator = Evaluator(experiment.fitness, experiment.path.parent, as_drawn=study.as_drawn)
        tasks = evaluator.describe()
        warnings |= dict.fromkeys(_model_warnings(first, recipe))
        prompts = _check_requests(evaluator, first, tuple(Split) if dry else ())
        sources, scored = identities(inputs.checkpoints), evaluator.digest()
    except UserError as exception:
        raise exception.within(str(experiment.path)) from None
    if file is not None and is_new:
        _check_folder(file.absolute().parent, file)
    if dry and not is_new:
        _check_study(experiment, sources, scored)
    unused = [f"models.{name} is not used by the recipe" for name in experiment.unused]
    told = (
        *experiment.warnings,
        *warnings,
        *_first_digest(study),
        *prompts,
        *unused,
        *without_effect(experiment),
    )
    return Preflight(inputs.checkpoints, first, tasks, sources, scored, tuple(dict.fromkeys(told)))


def _first_digest(study: Known) -> tuple[str, ...]:
    if not study.has_trials or study.scored is not None:
        return ()
    return (
        "this study is of release 0.1.0, which did not record what its tasks were: whether they have changed "
        "since cannot be told; from now on it is compared",
    )


def without_effect(experiment: Experiment) -> tuple[str, ...]:
    """One sentence for each setting of the workers that does nothing here, or less than it says."""
    workers = experiment.spec.workers
    if workers.backend != "inline":
        return _idle_workers(experiment)
    if workers.address is None:
        return ()
    return ("workers.address needs the backend ray: inline, everything runs in this process",)


def _idle_workers(experiment: Experiment) -> tuple[str, ...]:
    from evomerge.search.samplers import first_population

    count, lag = experiment.spec.workers.count, experiment.spec.search.lag
    most = lag + first_population(experiment.sampler(), experiment.space.dimensions)
    if count <= most:
        return ()
    return (
        f"workers.count is {count}, but no more than {most} candidates are proposed at a time; "
        "raise search.lag or search.population",
    )


def _first_plan(experiment: Experiment, recipe: Recipe) -> tuple[Inputs, MergePlan]:
    from evomerge.engine.inputs import Inputs
    from evomerge.engine.recipe_faults import with_faults

    try:
        inputs = Inputs(_opened(experiment))
        return inputs, inputs.plan(recipe)
    except UserError as exception:
        raise with_faults(exception, recipe) from None


def _opened(experiment: Experiment) -> dict[str, Checkpoint]:
    from evomerge.engine.sources import open_sources

    checkpoints: dict[str, Checkpoint] = {}
    for name, reference in experiment.references.items():
        try:
            checkpoints |= open_sources({name: reference})
        except CheckpointError as exception:
            if name in experiment.spec.models:
                raise exception.within(f"models.{name}") from None
            raise  # a reference in the recipe itself, which the message names already
    return checkpoints


def _check_workers(workers: WorkersSpec) -> None:
    import torch

    from evomerge.engine.device import resolve_device

    try:
        resolve_device(workers.device)
    except ExperimentError as exception:
        raise exception.within("workers") from None
    there = torch.cuda.device_count()
    if workers.backend == "ray" and workers.address is None and workers.gpus_per_worker > there:
        raise ExperimentError(
            "workers.gpus_per_worker",
            f"each worker needs {workers.gpus_per_worker:g} GPUs, and this machine has {there}",
            "Ask for less per worker, or join a cluster that has them with workers.address.",
        )


def _model_warnings(plan: MergePlan, recipe: Recipe) -> list[str]:
    from evomerge.engine.header import check_header

    warning = check_header(plan, is_stack=recipe.models is None)
    return [] if warning is None else [warning]


def _check_requests(evaluator: Evaluator, plan: MergePlan, splits: Sequence[Split]) -> tuple[str, ...]:
    from evomerge.engine.model_names import parse_config
    from evomerge.tokenizers.vocabulary import has_tokenizer, load_tokenizer

    if not has_tokenizer(plan.tokenizer.path):
        raise CheckpointError(
            "models",
            f"no tokenizer files in {', '.join(plan.checkpoints)}, and lm-eval needs a tokenizer",
            "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) into the base model's folder.",
        )
    return evaluator.check_requests(load_tokenizer(plan.tokenizer.path), parse_config(plan.config)[0], splits)


def _check_folder(folder: Path, file: Path | None = None) -> None:
    """Check that a folder (for ``file``) can be made, or written if it is there; it is not made here."""
    what, is_for = ("this folder", folder) if file is None else ("its folder", file)
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir():
        raise OutputError(str(is_for), f"{what} cannot be made: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        is_mounted_so = os.statvfs(there).f_flag & os.ST_RDONLY
        why = "Read-only file system" if is_mounted_so else f"no permission for {there}"
        raise OutputError(str(is_for), f"{what} cannot be written ({why})")


def _check_run_folder(folder: Path, experiment: Path, storage: Path | None) -> None:
    """Check that the folder is new, empty or a run's: ``run.json`` would lie among (or over) a user's files.

    Raises:
        OutputError: It holds other files, or a ``run.json`` that no search wrote.
    """
    hint = "Name a new or empty folder with --out or output.dir; the run's files would lie among these."
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    except OSError as exception:
        raise OutputError(str(folder), f"this folder cannot be read ({exception.strerror})") from None
    kind = run_file_kind(folder)
    if kind is RunFile.OTHER:
        raise OutputError(str(folder), f"is not a run's folder: no search wrote its {RUN_FILE}", hint)
    # A search that is killed early leaves a study and no run.json.
    own = {RUN_FILE, f".{RUN_FILE}", "study.db"}
    own |= {f.name for f in (storage, experiment) if f is not None and _lies_in(f, folder)}
    beside = tuple(f"{name}{mark}" for name in own for mark in "-.")  # study.db-wal, study.log.lock
    foreign = [name for name in names if name not in own | _OF_NO_ONE and not name.startswith(beside)]
    if kind is not RunFile.OURS and foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        told = ", ".join(foreign[:_SHOWN]) + more
        raise OutputError(str(folder), f"is neither empty nor a run's folder: it holds {told}", hint)


def _lies_in(file: Path, folder: Path) -> bool:
    return file.absolute().parent.resolve() == folder.resolve()


def _check_study(experiment: Experiment, sources: dict[str, str], scored: ScoredDigest) -> None:
    """Look at the study of the experiment, if there is one, without touching it."""
    from evomerge.search.experiment import FREE_FIELDS
    from evomerge.search.study import Study, study_names

    if experiment.name not in study_names(experiment.storage):
        return
    with Study.open(experiment.storage, experiment.name) as study:
        study.check_experiment(experiment.document(sources), FREE_FIELDS, scored)
