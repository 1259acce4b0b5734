"""Describes a task of an experiment with every default filled in, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.fitness.chat_spec import ChatSettings
from evomerge.fitness.scores import Split

__all__ = ["TaskInfo"]


@dataclass(frozen=True)
class TaskInfo:
    """One task as it will be evaluated; every default is filled in."""

    task: str
    """Its name in ``Scores``; a member of a group or tag is ``group/member``."""
    metric: str
    filter: str
    output_type: str
    """lm-eval's word: multiple_choice, generate_until, loglikelihood or loglikelihood_rolling."""
    higher_is_better: bool
    """As lm-eval says; ``direction`` in the experiment may overrule it."""
    aggregation: str
    weight: float
    """Its own share: a group's weight is spread over the members."""
    num_fewshot: int
    examples: str
    """Where they come from: ``none``, ``the train split``, ``search items``, ..."""
    items: Mapping[Split, int]
    """Number of items in each split."""
    has_description: bool = False
    """Whether a text stands in front of its examples; with chat, in the system role."""
    chat: ChatSettings | None = None
    """How its prompts are made into conversations; ``None``: they are not."""
