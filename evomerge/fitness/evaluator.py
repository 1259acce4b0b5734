"""Scores a model on the tasks of an experiment. Imports lm-eval and torch on first use only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CandidateError, FailureKind, FitnessError, did_you_mean
from evomerge.fitness.items import ItemSet, Measure
from evomerge.fitness.scored import ScoredDigest
from evomerge.fitness.scores import Scores, Split, TaskScore
from evomerge.fitness.spec import FitnessSpec
from evomerge.fitness.task_info import TaskInfo

if TYPE_CHECKING:
    from evomerge.fitness.askable import Askable
    from evomerge.fitness.deadline import Deadline
    from evomerge.fitness.lm_eval_tasks import EvalTask

__all__ = ["Evaluator"]


class Evaluator:
    """The tasks of one experiment, built once and used for every candidate of a process.

    ``base_dir`` is where a relative ``include_path`` starts (the folder of the experiment file).
    ``as_drawn``: few-shot examples as release 0.1.0 drew them, from evaluated items too. Scores are
    a function of the model's weights and the spec: no global random stream is read or set.
    """

    def __init__(self, spec: FitnessSpec, base_dir: Path, *, as_drawn: bool = False) -> None:
        self.spec = spec
        self.as_drawn = as_drawn
        self.base_dir = base_dir

    def describe(self) -> tuple[TaskInfo, ...]:
        """The tasks with every default filled in, groups and tags expanded; needs no model.

        Raises:
            FitnessError: a task, metric, filter, folder, dataset or split is wrong.
        """
        return tuple(task.info for task in self._tasks)

    def check_requests(self, tokenizer: Any, context: int, splits: Iterable[Split] = ()) -> tuple[str, ...]:
        """Makes one request of each task; what is worth a warning about the prompts of ``splits``.

        ``context`` is how many tokens the model to be scored reads at once.

        Raises:
            FitnessError: as ``describe``; also a tokenizer or a context that a task cannot work with.
        """
        splits = tuple(splits)
        cut = {task.info.task: task.check_requests(tokenizer, context, splits) for task in self._tasks}
        return tuple(
            f"task {task!r}: {count} prompts are longer than the model's context of {context} tokens, so "
            "their beginning is dropped"
            for task, count in cut.items()
            if count
        )

    def digest(self) -> ScoredDigest:
        """What decides the scores: items, prompts, targets, metrics; needs no model.

        Raises:
            FitnessError: as ``describe``; also an item of which no request can be made.
        """
        return ScoredDigest({task.info.task: task.digest() for task in self._tasks}, self.as_drawn)

    def score(
        self,
        model: Askable,
        items: ItemSet,
        measure: Measure = Measure.METRIC,
        deadline: Deadline | None = None,
    ) -> Scores:
        """The scores of ``model`` on ``items``, item by item and together.

        An item has the same prompt and examples in every set. Its score may differ in the last bits of a
        log-likelihood where other items are in its batch, and at random where a task samples its answers.

        Out of memory, a task is tried again with half the batch, and so on down to single sequences. A
        ``deadline`` is looked at between two forward passes: one that hangs is not ended.

        Raises:
            FitnessError: as ``describe``; also a task that does not fit the model or tokenizer, and items
                that are not there.
            CandidateError: logits or metrics are not finite, or memory or time do not suffice.
        """
        import torch

        self._refuse_other_tasks(items)
        with torch.inference_mode():
            tasks = tuple(self._score(task, model, items, measure, deadline) for task in self._tasks)
        return Scores(items.split, tasks)

    @cached_property
    def _tasks(self) -> tuple[EvalTask, ...]:
        from evomerge.fitness.lm_eval_tasks import build_tasks

        return build_tasks(self.spec, self.base_dir, as_drawn=self.as_drawn)

    def _refuse_other_tasks(self, items: ItemSet) -> None:
        known = {task.info.task for task in self._tasks}
        other = [task for task, _ in items.only if task not in known]
        if other:
            raise FitnessError(
                "fitness.tasks", f"there is no task {other[0]!r}", did_you_mean(other[0], known)
            )

    def _score(
        self, task: EvalTask, model: Askable, items: ItemSet, measure: Measure, deadline: Deadline | None
    ) -> TaskScore:
        score = {Measure.METRIC: task.score}[measure]
        batch_size, tried = self.spec.batch_size, list[str]()
        while batch_size:
            scored = _unless_out_of_memory(partial(score, model.lm(batch_size, deadline), items))
            if scored is not None:
                return scored
            tried.append(str(batch_size))
            batch_size //= 2
        raise CandidateError(
            FailureKind.OUT_OF_MEMORY,
            f"task {task.info.task!r} does not fit into memory, even with a batch of {tried[-1]} "
            f"(tried: {', '.join(tried)})",
        )


def _unless_out_of_memory(score: Callable[[], TaskScore]) -> TaskScore | None:
    """What ``score`` returns, or ``None`` (and memory as free as it gets) where memory ran out."""
    import torch

    try:
        return score()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    # Out of the handler: the exception held the tensors of the failed pass.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # Seen with torch 2.13: the allocator for CPUs, cuBLAS and cuDNN raise a plain RuntimeError.
    told = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(error) for text in told)
