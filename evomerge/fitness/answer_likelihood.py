"""The log-likelihood of the reference answer: what a search may measure in place of a task's metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.api.utils import requires_delimiter

from evomerge.errors import FitnessError
from evomerge.fitness.items import Measure
from evomerge.fitness.scored import short_digest
from evomerge.fitness.scores import ItemScore, TaskScore

__all__ = ["AnswerLikelihood"]

Answered = tuple[str, Mapping[str, Any], Sequence[Instance]]
"""An item: its name, its document, its requests with their answers."""

_HINT = "Remove 'measure: answer_likelihood' to search by the task's metric."


class AnswerLikelihood:
    """The measure of one lm-eval task, in natural logarithms; higher is better.

    Of an item of a multiple choice it is the log-probability of the right choice among the choices (of
    several right ones, of their sum); of a log-likelihood, that of the target; of a generated answer, that of
    the whole reference text behind the prompt, the best one's where there are several references. Nothing is
    divided by a length: it is the probability of giving that very answer, which the metric asks for.

    Raises:
        FitnessError: The task has no reference answers; ``where`` names it.
    """

    def __init__(self, task: Task, where: str) -> None:
        self._task = task
        self._where = f"{where}: measure"
        self._kind = str(task.OUTPUT_TYPE)
        self._made: dict[tuple[str, str], tuple[Instance, ...]] = {}
        if self._kind == "loglikelihood_rolling":
            raise FitnessError(
                self._where,
                "its metric is a log-likelihood already, and it has no answer apart from it",
                _HINT,
            )
        if self._kind == "generate_until" and isinstance(task.config.doc_to_target, int):
            raise FitnessError(
                self._where,
                f"its doc_to_target is the number {task.config.doc_to_target}, not a reference text",
                _HINT,
            )

    def check(self, items: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Check that each of ``items`` (name, document) has a reference answer.

        Raises:
            FitnessError: One has none; it is named.
        """
        for name, document in items:
            try:
                found = self._right(document) if self._kind == "multiple_choice" else self._texts(document)
                told = "" if found else "doc_to_target gives none"
            except Exception as error:  # noqa: BLE001 (templates and code of the task)
                told = f"{type(error).__name__}: {error}"
            if told:
                raise FitnessError(self._where, f"item {name} has no reference answer ({told})", _HINT)

    def instances(
        self, name: str, document: Mapping[str, Any], metric: Sequence[Instance], *, in_chat: bool
    ) -> tuple[Instance, ...]:
        """The requests of an item, made once from those for the task's ``metric``.

        ``in_chat``: the prompt ends where an answer of the chat template begins.

        Raises:
            FitnessError: The item is not asked as others of its kind are.
        """
        place = name, str(metric[0].args[0]) if metric else ""  # another chat template, other prompts
        if place not in self._made:
            ordered = sorted(metric, key=lambda instance: int(instance.idx))
            self._made[place] = self._requests(name, document, ordered, in_chat=in_chat)
        return self._made[place]

    def score(self, task: str, items: Sequence[Answered]) -> TaskScore:
        """The mean over ``items``, whose requests (of ``instances``) are answered."""
        parts = tuple(ItemScore(name, self._value(document, made)) for name, document, made in items)
        mean = math.fsum(part.value for part in parts) / len(parts)
        measure = Measure.ANSWER_LIKELIHOOD.value
        return TaskScore(task, measure, mean, higher_is_better=True, aggregation="mean", items=parts)

    def digest(self, items: Sequence[Answered]) -> str:
        """A digest of what is asked about ``items``."""
        return short_digest([[list(map(str, i.args)) for i in made] for _, _, made in items])

    def _requests(
        self, name: str, document: Mapping[str, Any], metric: Sequence[Instance], *, in_chat: bool
    ) -> tuple[Instance, ...]:
        if self._kind == "multiple_choice":
            choices = self._task.doc_to_choice(dict(document))
            return tuple(metric[: len(choices)])  # without the unconditional ones of acc_mutual_info
        if len(metric) != 1 or metric[0].request_type != self._kind:
            raise FitnessError(
                self._where, f"item {name} makes other requests than one of the kind {self._kind}", _HINT
            )
        if self._kind == "loglikelihood":
            return tuple(metric)
        (asked,) = metric
        prompt = str(asked.args[0])
        return tuple(
            Instance(
                request_type="loglikelihood",
                doc=asked.doc,
                arguments=(prompt, self._delimiter(document, text, in_chat=in_chat) + text),
                idx=number,
                metadata=(asked.task_name, asked.doc_id, 1),
            )
            for number, text in enumerate(self._texts(document))
        )

    def _value(self, document: Mapping[str, Any], made: Sequence[Instance]) -> float:
        found = [float(instance.resps[0][0]) for instance in made]
        if self._kind != "multiple_choice":
            return max(found)
        right = self._right(document)
        return _log_of_sum([found[choice] for choice in right]) - _log_of_sum(found)

    def _right(self, document: Mapping[str, Any]) -> list[int]:
        """The right choices, as ``ConfigurableTask.process_results`` of lm-eval 0.4.13 finds them."""
        task, given = self._task, dict(document)
        choices = list(task.doc_to_choice(given))
        gold = task.doc_to_text(given) if task.multiple_input else task.doc_to_target(given)
        if isinstance(gold, str):
            return [choices.index(gold)]
        right = list(dict.fromkeys(gold if isinstance(gold, list) else [gold]))
        wrong = [choice for choice in right if not 0 <= choice < len(choices)]
        if wrong:
            raise ValueError(f"{wrong[0]} is not one of {len(choices)} choices")
        return right

    def _texts(self, document: Mapping[str, Any]) -> list[str]:
        """The reference texts, as lm-eval compares answers with them; without repetition."""
        given = dict(document)
        gold = self._task.doc_to_target(given)
        if self._kind == "generate_until" and self._task.config.doc_to_choice is not None:
            gold = self._task.doc_to_choice(given)[gold]
        texts = gold if isinstance(gold, list | tuple) else [gold]
        return list(dict.fromkeys(str(text) for text in texts if text is not None and str(text).strip()))

    def _delimiter(self, document: Mapping[str, Any], text: str, *, in_chat: bool) -> str:
        """What stands between the prompt and an answer in few-shot examples of the task."""
        if not isinstance(self._task, ConfigurableTask):
            return ""  # classes of the old kind have it in their targets
        prefix = self._task.doc_to_prefix(dict(document))
        if prefix:
            return " " if requires_delimiter(prefix, text) else ""
        return "" if in_chat else str(self._task.config.target_delimiter)


def _log_of_sum(logarithms: Sequence[float]) -> float:
    """log(sum(exp(x)))."""
    highest = max(logarithms)
    return highest + math.log(math.fsum(math.exp(x - highest) for x in logarithms))
