"""evomerge searches for the best merge of several fine-tuned language models.

``Experiment`` and ``Run`` do what the commands do (docs/python.md); the other names are their parts. They are
imported when they are first used, so that ``import evomerge`` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from evomerge.version import __version__ as __version__

if TYPE_CHECKING:
    from evomerge.backends.transformers_model import TransformersModel
    from evomerge.engine.export import MergeOptions, merge_to_disk
    from evomerge.engine.sources import open_sources
    from evomerge.errors import CandidateError, UserError
    from evomerge.fitness import Evaluator, Fitness, Scores
    from evomerge.recipe import Recipe, SearchSpace, load_recipe
    from evomerge.runs.experiment import Experiment
    from evomerge.runs.opened_study import open_study
    from evomerge.runs.run import Run
    from evomerge.search.controller import SearchPlan
    from evomerge.search.observers import Observer
    from evomerge.study.study import Study
    from evomerge.workers.worker import Worker, WorkerSpec

__all__ = [
    "CandidateError",
    "Evaluator",
    "Experiment",
    "Fitness",
    "MergeOptions",
    "Observer",
    "Recipe",
    "Run",
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
    "open_study",
]

_HOMES = {
    "CandidateError": "errors",
    "Evaluator": "fitness",
    "Experiment": "runs.experiment",
    "Fitness": "fitness",
    "MergeOptions": "engine.export",
    "Observer": "search.observers",
    "Recipe": "recipe",
    "Run": "runs.run",
    "Scores": "fitness",
    "SearchPlan": "search.controller",
    "SearchSpace": "recipe",
    "Study": "study.study",
    "TransformersModel": "backends.transformers_model",
    "UserError": "errors",
    "Worker": "workers.worker",
    "WorkerSpec": "workers.worker",
    "load_recipe": "recipe",
    "merge_to_disk": "engine.export",
    "open_sources": "engine.sources",
    "open_study": "runs.opened_study",
}


_FORMER = {"Materializer": "TransformersModel"}
"""Names of release 0.1.0, and what they are called now."""


def __getattr__(name: str) -> Any:
    """The public name, from the module where it lives."""
    name = _FORMER.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module 'evomerge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"evomerge.{_HOMES[name]}"), name)
