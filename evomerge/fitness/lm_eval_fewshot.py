"""Few-shot examples, which never come from items that are used to compare candidates.

lm-eval draws them from whatever split a task names, also from the one that is evaluated. Then the prompts
would contain answers of validation and test items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import Task

from evomerge.errors import FitnessError
from evomerge.fitness.scores import Split
from evomerge.fitness.splits import digest

__all__ = ["Examples"]

_Document = Mapping[str, Any]


class Examples:
    """The examples of one task: a split of their own as lm-eval draws them, or else its search items.

    ``as_drawn`` leaves all to lm-eval, as release 0.1.0 did. A document counts as equal to another where its
    content is, or its prompt, choices and answer: a row may have another id.

    Raises:
        FitnessError: there are fewer than the ``shots`` that the task asks for; ``where`` names it.
    """

    source: str
    """For messages: ``none``, ``the train split``, ``search items``."""

    def __init__(
        self,
        task: Task,
        documents: Sequence[_Document],
        splits: Mapping[Split, Sequence[int]],
        where: str,
        *,
        as_drawn: bool = False,
    ) -> None:
        self._task = task
        self._documents = documents
        self._asks: Callable[[int], None] | None = None
        self.shots = int(task.config.num_fewshot or 0)
        self.source = "none"
        if not self.shots:
            return
        name, shared = _origin(task)
        self.source = name
        sampler = getattr(task, "sampler", None)
        if as_drawn or not isinstance(sampler, ContextSampler):
            if not as_drawn and shared:
                raise FitnessError(
                    where,
                    "its own code draws the examples of its prompts from the items that are scored",
                    "Set num_fewshot: 0, or give the task a fewshot_split.",
                )
            return
        self._use(sampler, splits, where, shared=shared)

    def before(self, position: int) -> None:
        """To be called before the prompt of the document at ``position`` is made."""
        if self._asks is not None:
            self._asks(position)

    def _use(
        self, sampler: ContextSampler, splits: Mapping[Split, Sequence[int]], where: str, *, shared: bool
    ) -> None:
        pool = [dict(document) for document in sampler.fewshot_docs()]
        if not shared:
            evaluated = {key for document in self._documents for key in _keys(self._task, document)}
            apart = [document for document in pool if evaluated.isdisjoint(_keys(self._task, document))]
            if apart:
                if len(apart) < len(pool):
                    sampler.replace_df(apart)
                self._refuse_too_few(len(apart), where)
                return
            pool = []  # all of it is evaluated
        self.source = "search items"
        mine = _SearchItems(self._task, self._documents, splits, pool, sampler)
        self._refuse_too_few(mine.fewest, where)
        self._task.sampler = mine
        self._asks = mine.ask

    def _refuse_too_few(self, have: int, where: str) -> None:
        if have < self.shots:
            raise FitnessError(
                f"{where}: num_fewshot",
                f"prompts ask for {self.shots} examples, and there are {have} (from {self.source})",
                "Ask for fewer, or give the task a fewshot_split with more of them.",
            )


class _SearchItems(ContextSampler):  # type: ignore[misc]
    """Lets the task's own sampler choose among search items that do not equal the one that is asked.

    Items of validation and test that are copies of a search item forbid that one as an example.
    """

    def __init__(
        self,
        task: Task,
        documents: Sequence[_Document],
        splits: Mapping[Split, Sequence[int]],
        formatted: Sequence[_Document],
        chooser: ContextSampler,
    ) -> None:
        keys = [_keys(task, document) for document in documents]
        judging = {k for split in splits if split != Split.SEARCH for p in splits[split] for k in keys[p]}
        positions = [p for p in splits[Split.SEARCH] if judging.isdisjoint(keys[p])]
        # fewshot_config may prepare documents in a way of its own; the rows are the same ones then.
        same_rows = len(formatted) == len(documents)
        self._pool = [formatted[p] if same_rows else documents[p] for p in positions]
        self._places: dict[str, list[int]] = {}
        """Of each key, where in the pool it stands."""
        for place, position in enumerate(positions):
            for key in keys[position]:
                self._places.setdefault(key, []).append(place)
        self._keys = keys
        self._chooser = chooser
        self._asked = 0
        super().__init__(list(self._pool))
        asked = {p for split in splits for p in splits[split]}
        self.fewest = len(self._pool) - max((len(self._equals(p)) for p in asked), default=len(self._pool))

    def ask(self, position: int) -> None:
        self._asked = position

    def set_rnd(self, rnd: int | None) -> _SearchItems:
        self._chooser.set_rnd(rnd)
        return self

    def sample(
        self,
        n: int,
        eval_doc: Any = None,  # noqa: ARG002 (lm-eval passes it for some tasks only)
        df: Any = None,  # noqa: ARG002
        **_: Any,
    ) -> Sequence[Any]:
        self._chooser.replace_df(self._others(self._asked))
        chosen: Sequence[Any] = self._chooser.sample(n)
        return chosen

    def _equals(self, position: int) -> list[int]:
        """Where in the pool documents equal the one at ``position``, in order."""
        return sorted({place for key in self._keys[position] for place in self._places.get(key, ())})

    def _others(self, position: int) -> list[_Document]:
        others = self._pool.copy()
        for place in reversed(self._equals(position)):
            del others[place]
        return others


def _origin(task: Task) -> tuple[str, bool]:
    """Where lm-eval takes examples from, for messages; whether that is the split that is evaluated."""
    config = task.config
    evaluated = config.test_split if task.has_test_docs() else config.validation_split
    settings = getattr(task, "fewshot_cfg", None)
    split = getattr(settings, "split", None)
    if split is None and getattr(settings, "samples", None) is not None and config.fewshot_config is not None:
        return "the list in the task", False
    if split is None:
        split = (
            (task.has_training_docs() and config.training_split)
            or (task.has_validation_docs() and config.validation_split)
            or evaluated
        )
    return f"the {split} split", _base(split) == _base(evaluated)


def _base(split: Any) -> str:
    """``test`` of ``test[:50%]``."""
    return str(split).partition("[")[0].strip()


def _keys(task: Task, document: _Document) -> frozenset[str]:
    """What tells documents apart: their content, and what a prompt shows of them."""
    content = digest(document)
    try:
        text = task.doc_to_text(dict(document))
        target = task.doc_to_target(dict(document))
        choices = task.doc_to_choice(dict(document)) if task.config.doc_to_choice is not None else None
        seen = json.dumps([text, target, choices], default=str)
    except Exception:  # noqa: BLE001 (a template that fails is reported where prompts are made)
        return frozenset((content,))
    return frozenset((content, f"shown:{seen}"))
