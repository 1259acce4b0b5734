"""What must be right before a search starts: models that open, recipes that fit them, tasks with items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.cli._console import warn
from evomerge.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from evomerge.checkpoints.checkpoint import Checkpoint
    from evomerge.engine.plan import MergePlan
    from evomerge.fitness import TaskInfo
    from evomerge.fitness.scored import ScoredDigest
    from evomerge.fitness.spec import FitnessSpec
    from evomerge.search.experiment import Experiment
    from evomerge.search.study import Known

__all__ = ["Preflight", "announce", "preflight", "without_effect"]


@dataclass(frozen=True)
class Preflight:
    """The models of an experiment, opened; the plan of the recipe that its search starts from; its tasks."""

    checkpoints: dict[str, Checkpoint]
    plan: MergePlan
    tasks: tuple[TaskInfo, ...]
    scored: ScoredDigest
    study: Known
    warnings: tuple[str, ...]
    """About the study and the prompts."""


def announce(fitness: FitnessSpec) -> None:
    """Says so if code of strangers may run; before anything of theirs is opened."""
    if fitness.trust_remote_code:
        warn(
            "fitness.trust_remote_code is on: Python code that comes with a model, a dataset or a task "
            "definition may run, with all that you may do on this machine."
        )


def preflight(experiment: Experiment) -> Preflight:
    """Opens the models, plans the first candidate and every baseline, builds the tasks; reads headers only.

    A study keeps the experiment that it was created with, so all this comes before there is a study.

    Raises:
        UserError: Something does not fit; the experiment file is named.
    """
    from evomerge.cli._readiness import prompt_warnings, refuse_places, refuse_workers
    from evomerge.engine.device import resolve_device
    from evomerge.engine.inputs import Inputs
    from evomerge.fitness import Evaluator
    from evomerge.search.samplers import make_sampler
    from evomerge.search.study import known

    try:
        resolve_device(experiment.spec.workers.device)
        checkpoints = _opened(experiment)
        space = experiment.space
        inputs = Inputs(checkpoints)
        first = inputs.plan(space.fill(space.decode(space.start())))
        plans = [first, *(inputs.plan(baseline.recipe) for baseline in experiment.baselines())]
        make_sampler(experiment.sampler(), space.dimensions)
        refuse_workers(experiment.spec.workers)
        refuse_places(experiment)
        study = known(experiment.storage, experiment.name)
        evaluator = Evaluator(experiment.fitness, experiment.path.parent, as_drawn=study.as_drawn)
        tasks = evaluator.describe()
        scored = evaluator.digest()
        warnings = (*_first_digest(study), *prompt_warnings(evaluator, plans))
    except UserError as exception:
        raise exception.within(str(experiment.path)) from None
    return Preflight(checkpoints, first, tasks, scored, study, warnings)


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
