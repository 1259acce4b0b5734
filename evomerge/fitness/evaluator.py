"""Scores a model on the tasks of an experiment. Imports lm-eval and torch on first use only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import FitnessError, did_you_mean
from evomerge.fitness.chat import ChatError, chat_warnings, own_template, template_digest
from evomerge.fitness.items import ItemSet, Measure
from evomerge.fitness.scored import CHAT_TEMPLATE, ScoredDigest
from evomerge.fitness.scores import Scores, Split
from evomerge.fitness.spec import FitnessSpec
from evomerge.fitness.task_info import TaskInfo

if TYPE_CHECKING:
    from evomerge.fitness.askable import Askable
    from evomerge.fitness.deadline import Deadline
    from evomerge.fitness.tasks import Task

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
        told = [
            f"task {task!r}: {count} prompts are longer than the model's context of {context} tokens, so "
            "their beginning is dropped"
            for task, count in cut.items()
            if count
        ]
        for task in self._tasks:
            told += chat_warnings(task.info, tokenizer)
        if self._says_nothing_of_chat and own_template(tokenizer):
            told.append(
                "the merged model has a chat template, and tasks are asked without it: set fitness.chat: "
                "true to ask as its users do, or false"
            )
        return tuple(told)

    def check_chat(self, tokenizers: Mapping[str, Any]) -> tuple[str, ...]:
        """A warning for each baseline, by name, whose tokenizer has no chat template that tasks can use."""
        told = []
        for name, tokenizer in tokenizers.items():
            try:
                for task in self._tasks:
                    chat_warnings(task.info, tokenizer)
            except ChatError as error:
                told.append(
                    f"baseline {name!r} will fail: {error.reason}. fitness.chat.template with the name of a "
                    "format, or Jinja text, is one for all models"
                )
        return tuple(told)

    def digest(self, tokenizers: Sequence[Any] = ()) -> ScoredDigest:
        """What decides the scores: items, prompts, targets, metrics; needs no model.

        ``tokenizers`` are those of the models to be scored as far as they are known: of tasks that are asked
        with chat templates, it takes their templates up.

        Raises:
            FitnessError: as ``describe``; also an item of which no request can be made.
        """
        found = {task.info.task: task.digest() for task in self._tasks}
        for info in self.describe():
            if info.chat is not None and info.chat.applied and tokenizers:
                templates = dict.fromkeys(template_digest(info.chat, t) for t in tokenizers)
                found[info.task] = found[info.task].having(CHAT_TEMPLATE, ", ".join(templates))
        return ScoredDigest(found, self.as_drawn)

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

        A ``deadline`` is looked at between two forward passes: one that hangs is not ended.

        Raises:
            FitnessError: as ``describe``; also a task that does not fit the model or tokenizer, and items
                that are not there.
            CandidateError: logits or metrics are not finite, or memory or time do not suffice.
        """
        import torch

        from evomerge.fitness.answering import answer

        self._refuse_other_tasks(items)
        lm = model.lm(self.spec.batch_size, deadline)
        with torch.inference_mode():
            answer(lm, [request for task in self._tasks for request in task.requests(items, measure, lm)])
            tasks = tuple(task.score(items, measure, lm) for task in self._tasks)
        return Scores(items.split, tasks)

    @property
    def _says_nothing_of_chat(self) -> bool:
        return self.spec.chat is None and all(task.chat is None for task in self.spec.tasks)

    def close(self) -> None:
        """Releases what the tasks opened; may be called twice."""
        for task in self.__dict__.get("_tasks", ()):  # only where they were built
            task.close()

    @cached_property
    def _tasks(self) -> tuple[Task, ...]:
        from evomerge.fitness.building import build_tasks

        return build_tasks(self.spec, self.base_dir, as_drawn=self.as_drawn)

    def _refuse_other_tasks(self, items: ItemSet) -> None:
        known = {task.info.task for task in self._tasks}
        other = [task for task, _ in items.only if task not in known]
        if other:
            raise FitnessError(
                "fitness.tasks", f"there is no task {other[0]!r}", did_you_mean(other[0], known)
            )
