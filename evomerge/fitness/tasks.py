"""What an evaluator needs of a task: its requests, and a score from their answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from evomerge.fitness.items import ItemSet, Measure
from evomerge.fitness.scored import TaskDigest
from evomerge.fitness.scores import Split, TaskScore
from evomerge.fitness.task_info import TaskInfo

if TYPE_CHECKING:
    from evomerge.fitness.answering import Request
    from evomerge.fitness.askable import EvalLM

__all__ = ["Task"]


class Task(Protocol):
    """One task of an experiment with one metric, its items divided into splits."""

    info: TaskInfo

    def requests(self, chosen: ItemSet, measure: Measure, model: EvalLM) -> Sequence[Request]:
        """What ``model`` is asked about the items of ``chosen``, in their order, together with other tasks.

        A task may make none, and ask on its own in ``score``.

        Raises:
            FitnessError: the split has no such item, or the task does not fit the model.
        """
        ...

    def score(self, chosen: ItemSet, measure: Measure, model: EvalLM) -> TaskScore:
        """The score on ``chosen`` once the requests have been answered.

        Raises:
            CandidateError: the metric is not finite, or the task's own code cannot handle the answers.
        """
        ...

    def digest(self) -> TaskDigest:
        """What decides the scores of this task, of all splits; makes the requests, needs no model."""
        ...

    def check_requests(self, tokenizer: Any, context: int, splits: Iterable[Split]) -> int:
        """Makes the first request of the task, and counts the items of ``splits`` that a model cuts off.

        ``context`` is the length of the model's context in tokens.

        Raises:
            FitnessError: no request can be made, or no answer fits into the context.
        """
        ...

    def close(self) -> None:
        """Releases what was opened to score; may be called twice, and ``score`` opens it again."""
        ...
