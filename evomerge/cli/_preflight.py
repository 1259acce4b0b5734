"""What must be right before a search starts: models that open, and recipes that fit them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.errors import UserError

if TYPE_CHECKING:
    from evomerge.checkpoints.checkpoint import Checkpoint
    from evomerge.engine.plan import MergePlan
    from evomerge.search.experiment import Experiment

__all__ = ["Preflight", "preflight"]


@dataclass(frozen=True)
class Preflight:
    """The models of an experiment, opened, and the plan of the recipe that its search starts from."""

    checkpoints: dict[str, Checkpoint]
    plan: MergePlan


def preflight(experiment: Experiment) -> Preflight:
    """Opens the models and plans the first candidate and every baseline; reads headers only.

    Raises:
        UserError: Something does not fit; the experiment file is named.
    """
    from evomerge.engine.device import resolve_device
    from evomerge.engine.plan import plan
    from evomerge.engine.sources import open_sources

    try:
        resolve_device(experiment.spec.workers.device)
        checkpoints = open_sources(experiment.references)
        space = experiment.space
        first = plan(space.fill(space.decode(space.start())), checkpoints)
        for baseline in experiment.baselines():
            plan(baseline.recipe, checkpoints)
    except UserError as exception:
        raise exception.within(str(experiment.path)) from None
    return Preflight(checkpoints, first)
