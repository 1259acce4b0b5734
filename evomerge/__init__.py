"""evomerge searches for the best merge of several fine-tuned language models.

The names below are the public interface, with ``evomerge.search.controller.search``, which runs a plan.
They are imported when they are first used, so that ``import evomerge`` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.backends.transformers_model import TransformersModel
    from evomerge.engine.export import MergeOptions, merge_to_disk
    from evomerge.engine.sources import open_sources
    from evomerge.errors import CandidateError, UserError
    from evomerge.fitness import Evaluator, Fitness, Scores
    from evomerge.recipe import Recipe, SearchSpace, load_recipe
    from evomerge.search.controller import SearchPlan
    from evomerge.search.experiment import Experiment
    from evomerge.search.study import Study
    from evomerge.workers.worker import Worker, WorkerSpec

__version__ = "0.1.0"

__all__ = [
    "CandidateError",
    "Evaluator",
    "Experiment",
    "Fitness",
    "MergeOptions",
    "Recipe",
    "Scores",
    "SearchPlan",
    "SearchSpace",
    "Study",
    "TransformersModel",
    "UserError",
    "Worker",
    "WorkerSpec",
    "load_recipe",
    "merge_to_disk",
    "open_sources",
]

_HOMES = {
    "CandidateError": "errors",
    "Evaluator": "fitness",
    "Experiment": "search.experiment",
    "Fitness": "fitness",
    "MergeOptions": "engine.export",
    "Recipe": "recipe",
    "Scores": "fitness",
    "SearchPlan": "search.controller",
    "SearchSpace": "recipe",
    "Study": "search.study",
    "TransformersModel": "backends.transformers_model",
    "UserError": "errors",
    "Worker": "workers.worker",
    "WorkerSpec": "workers.worker",
    "load_recipe": "recipe",
    "merge_to_disk": "engine.export",
    "open_sources": "engine.sources",
}


_FORMER = {"Materializer": "TransformersModel"}
"""Names of release 0.1.0, and what they are called now."""


def __getattr__(name: str) -> Any:
    """The public name, from the module where it lives."""
    name = _FORMER.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module 'evomerge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"evomerge.{_HOMES[name]}"), name)
