"""What must be right before a search starts: models that open, recipes that fit them, tasks with items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.backends.transformers_lm import context_length, with_padding
from evomerge.backends.trial import try_out
from evomerge.backends.vllm_settings import check_settings, room
from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.compute import check_tables
from evomerge.engine.device import resolve_device
from evomerge.engine.header import check_header
from evomerge.engine.inputs import Inputs
from evomerge.engine.model_names import parse_config
from evomerge.engine.plan import MergePlan
from evomerge.engine.recipe_faults import with_faults
from evomerge.engine.sources import identities, open_sources
from evomerge.errors import CheckpointError, ExperimentError, UserError
from evomerge.fitness import Evaluator, Split, TaskInfo
from evomerge.fitness.items import Measure
from evomerge.fitness.scored import ScoredDigest
from evomerge.fitness.spec import FitnessSpec
from evomerge.recipe import Recipe
from evomerge.runs.executors import worker_spec
from evomerge.runs.experiment import FREE_FIELDS, Experiment, read_document
from evomerge.runs.run_folder import check_folder, check_run_folder
from evomerge.search.samplers import first_population, make_sampler
from evomerge.study.lookup import Known, known, study_names
from evomerge.study.storage import refuse_foreign, storage_file
from evomerge.study.study import Study
from evomerge.tokenizers.vocabulary import has_tokenizer, load_tokenizer

__all__ = ["Preflight", "mixed_measures", "preflight", "trust_warning", "without_effect"]


@dataclass(frozen=True)
class Preflight:
    """The models of an experiment, opened; the plan of the recipe that its search starts from; its tasks.

    ``experiment`` has the settings that its study decides. ``sources`` are digests of what the models hold,
    ``scored`` of the tasks, ``warnings`` what the user should know.
    """

    experiment: Experiment
    checkpoints: dict[str, Checkpoint]
    plan: MergePlan
    tasks: tuple[TaskInfo, ...]
    sources: dict[str, str]
    scored: ScoredDigest
    study: Known
    """What is known of the study, which need not exist yet."""
    warnings: tuple[str, ...]


def trust_warning(fitness: FitnessSpec) -> str | None:
    """A sentence that untrusted code may run, where that is so; to be shown before anything is opened."""
    if not fitness.trust_remote_code:
        return None
    return (
        "fitness.trust_remote_code is on: Python code that comes with a model, a dataset or a task "
        "definition may run, with all that you may do on this machine."
    )


def preflight(experiment: Experiment, *, dry: bool = False) -> Preflight:
    """All that a search can know before its first candidate, for ``check`` and ``search`` alike.

    Opens the models, plans the first candidate and every baseline, has transformers build the model without
    its weights, makes the sampler, builds the tasks and one request of each with the real tokenizer, and
    looks at the storage and the run's folder. An engine other than transformers makes the first candidate,
    once, in a process of its own. Otherwise, of the weights only integer and boolean tensors are read, and
    nothing is written: a study keeps the experiment that it was created with, so all this comes before there
    is a study. ``dry``: no search follows, so the study is looked at (a search opens it itself, and waits for
    a server that is away), and each prompt is compared with the model's context.

    Raises:
        UserError: Something does not fit; the experiment file is named.
    """
    file = storage_file(experiment.storage)
    is_new = file is not None and not file.exists()
    if file is not None and not is_new:
        refuse_foreign(experiment.storage)
    check_folder(experiment.folder)
    check_run_folder(experiment.folder, experiment.path, file)
    study = known(experiment.storage, experiment.name, wait=not dry)
    experiment = experiment.of_study(study.document)
    try:
        _check_workers(experiment)
        make_sampler(experiment.sampler(), experiment.space.dimensions)
        space = experiment.space
        recipe = space.fill(space.decode(space.start()))
        inputs, first = _first_plan(experiment, recipe)
        plans = [first, *(inputs.plan(baseline.recipe) for baseline in experiment.baselines())]
        warnings = dict.fromkeys(text for plan in plans for text in plan.warnings)
        evaluator = Evaluator(experiment.fitness, experiment.path.parent, as_drawn=study.as_drawn)
        tasks = evaluator.describe()
        warnings |= dict.fromkeys(_model_warnings(first, recipe))
        prompts = _check_requests(evaluator, first, experiment, tuple(Split) if dry else ())
        names = [baseline.name for baseline in experiment.baselines()]
        tokenizers = _chat_tokenizers(evaluator, plans)
        prompts += evaluator.check_chat(dict(zip(names, tokenizers[1:], strict=False)))
        sources, scored = identities(inputs.checkpoints), evaluator.digest(tokenizers)
        check_tables(plans)  # late, as it needs the weights of models of the hub, which are here now
        _try_engine(experiment, recipe)
    except UserError as exception:
        raise exception.within(str(experiment.path)) from None
    if file is not None and is_new:
        check_folder(file.absolute().parent, file)
    if dry and not is_new:
        _check_study(experiment, sources, scored)
    unused = [f"models.{name} is not used by the recipe" for name in experiment.unused]
    told = (
        *experiment.warnings,
        *warnings,
        *_first_digest(study),
        *prompts,
        *unused,
        *mixed_measures(experiment.fitness, tasks),
        *without_effect(experiment),
    )
    return Preflight(
        experiment, inputs.checkpoints, first, tasks, sources, scored, study, tuple(dict.fromkeys(told))
    )


def _first_digest(study: Known) -> tuple[str, ...]:
    if not study.has_trials or study.scored is not None:
        return ()
    return (
        "this study is of release 0.1.0, which did not record what its tasks were: whether they have changed "
        "since cannot be told; from now on it is compared",
    )


def mixed_measures(fitness: FitnessSpec, tasks: Sequence[TaskInfo]) -> tuple[str, ...]:
    """A sentence where the search adds up numbers without a common scale: log-likelihoods have no bound."""
    kinds: dict[str, list[str]] = {}
    for spec in fitness.tasks:
        found = [t for t in tasks if spec.covers(t.task, t.metric) and t.weight > 0.0]
        for task in found:
            kind = "choices" if task.output_type == "multiple_choice" else "texts"
            named = "metrics" if spec.measure == "metric" else f"{spec.measure} of {kind}"
            kinds.setdefault(named, []).append(task.task)
    if len(kinds) < 2 or fitness.search_measure is Measure.METRIC:
        return ()
    listed = ", ".join(f"{kind} ({', '.join(names)})" for kind, names in kinds.items())
    return (
        f"fitness.tasks: the search adds up measures that have no common scale: {listed}; choose weights "
        "that make up for that, or measure all tasks alike",
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
    count, lag = experiment.spec.workers.count, experiment.spec.search.lag
    most = lag + first_population(experiment.spec.search.settings, experiment.space.dimensions)
    if count <= most:
        return ()
    return (
        f"workers.count is {count}, but no more than {most} candidates are proposed at a time; "
        "raise search.lag or search.population",
    )


def _first_plan(experiment: Experiment, recipe: Recipe) -> tuple[Inputs, MergePlan]:
    try:
        inputs = Inputs(_open_models(experiment))
        return inputs, inputs.plan(recipe)
    except UserError as exception:
        raise with_faults(exception, recipe) from None


def _open_models(experiment: Experiment) -> dict[str, Checkpoint]:
    checkpoints: dict[str, Checkpoint] = {}
    for name, reference in experiment.references.items():
        try:
            checkpoints |= open_sources({name: reference})
        except CheckpointError as exception:
            if name in experiment.spec.models:
                raise exception.within(f"models.{name}") from None
            raise  # a reference in the recipe itself, which the message names already
    return checkpoints


def _check_workers(experiment: Experiment) -> None:
    workers = experiment.spec.workers
    if experiment.engine == "vllm":
        check_settings(workers.quantization)
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


def _try_engine(experiment: Experiment, recipe: Recipe) -> None:
    """Has another engine than transformers make the first candidate, where workers run on this machine."""
    address = experiment.spec.workers.address
    if experiment.engine in ("transformers", "lm_eval") or address is not None:
        return
    try_out(experiment.engine, worker_spec(experiment).model_settings, recipe)


def _model_warnings(plan: MergePlan, recipe: Recipe) -> list[str]:
    warning = check_header(plan, is_stack=recipe.models is None)
    return [] if warning is None else [warning]


def _check_requests(
    evaluator: Evaluator, plan: MergePlan, experiment: Experiment, splits: Sequence[Split]
) -> tuple[str, ...]:
    if not has_tokenizer(plan.tokenizer.path):
        raise CheckpointError(
            "models",
            f"no tokenizer files in {', '.join(plan.checkpoints)}, and lm-eval needs a tokenizer",
            "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) into the base model's folder.",
        )
    tokenizer = with_padding(load_tokenizer(plan.tokenizer.path))
    context = context_length(parse_config(plan.config)[0], tokenizer)
    if experiment.engine == "vllm":
        given = experiment.spec.workers.engine_args or {}
        context = room(plan.config, context, given.get("max_model_len")).scored
    return evaluator.check_requests(tokenizer, context, splits)


def _chat_tokenizers(evaluator: Evaluator, plans: Sequence[MergePlan]) -> list[Any]:
    """The tokenizer of each plan; none where no task is asked with a chat template."""
    if not any(task.chat is not None and task.chat.applied for task in evaluator.describe()):
        return []
    paths = [plan.tokenizer.path for plan in plans]
    loaded = {path: load_tokenizer(path) for path in dict.fromkeys(paths)}
    return [loaded[path] for path in paths]


def _check_study(experiment: Experiment, sources: dict[str, str], scored: ScoredDigest) -> None:
    """Look at the study of the experiment, if there is one, without touching it."""
    if experiment.name not in study_names(experiment.storage):
        return
    with Study.open(experiment.storage, experiment.name, read=read_document) as study:
        study.check_experiment(experiment.document(sources), FREE_FIELDS, scored)
