"""The door to lm-eval: tasks built once, requests built once per split, answers of one live model to scores.

``lm_eval.evaluate`` is not used: it rebuilds every request for every model, and its ``samples=`` labels items
wrongly (0.4.13). What it computes is computed here from the same parts, in the same order, to the same bits.
Never used: lm-eval's caches, which do not know that weights changed in place.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evomerge.errors import CandidateError, FailureKind, FitnessError, did_you_mean
from evomerge.fitness.answer_likelihood import AnswerLikelihood
from evomerge.fitness.answering import SEED, Request
from evomerge.fitness.askable import EvalLM
from evomerge.fitness.chat import ChatError, ChatFormat, Render, as_json
from evomerge.fitness.chat_spec import chat_settings
from evomerge.fitness.items import ItemSet, Measure, positions_of
from evomerge.fitness.lm_eval_digest import digest_of_task
from evomerge.fitness.lm_eval_fewshot import Examples
from evomerge.fitness.lm_eval_index import load_tasks, task_manager
from evomerge.fitness.lm_eval_metrics import aggregation_of, contribution
from evomerge.fitness.lm_eval_requests import check_room, is_cut, token_count, with_answer_cap
from evomerge.fitness.lm_eval_trust import refuse_code, sandbox_templates
from evomerge.fitness.objectives import POSITIVE_AGGREGATIONS
from evomerge.fitness.scored import TaskDigest
from evomerge.fitness.scores import ItemScore, Split, TaskScore
from evomerge.fitness.spec import FitnessSpec, TaskSpec
from evomerge.fitness.splits import digest, item_names, split_items
from evomerge.fitness.task_info import TaskInfo
from evomerge.fitness.task_settings import change_settings

__all__ = ["EvalTask", "build_tasks"]

# lm-eval warns about every task without an explicit aggregation, every truncated prompt, every model object.
logging.getLogger("lm_eval").setLevel(logging.ERROR)


@dataclass(frozen=True)
class _Item:
    """One document and the requests made of it."""

    name: str
    document: Mapping[str, Any]
    instances: tuple[Instance, ...]

    @property
    def answered(self) -> tuple[str, Mapping[str, Any], tuple[Instance, ...]]:
        """All three."""
        return self.name, self.document, self.instances


class EvalTask:
    """One lm-eval task with one metric and one filter, its items divided into splits.

    Raises:
        FitnessError: metric or filter unknown, splits that do not fit, or a task that cannot be run here.
    """

    def __init__(
        self, name: str, task: Task, spec: TaskSpec, fitness: FitnessSpec, *, as_drawn: bool = False
    ) -> None:
        self._where = f"fitness.tasks: {name}"
        self._task = task
        self._fitness = fitness
        self._refuse_unsupported()
        change_settings(task, spec, fitness, self._where)
        self._chat = chat_settings(fitness.chat, spec.chat)
        self._documents = [dict(document) for document in task.eval_docs]
        digests = [digest(document) for document in self._documents]
        self._names = item_names(digests)
        self._splits = split_items(digests, fitness.splits, fitness.limit, self._where)
        self._examples = Examples(task, self._documents, self._splits, self._where, as_drawn=as_drawn)
        self._filter = self._choose_filter(spec.filter)
        self._metric = self._choose_metric(spec.metric)
        self._aggregate, aggregation = aggregation_of(task, self._metric)
        if spec.transform == "log" and aggregation not in POSITIVE_AGGREGATIONS:
            raise FitnessError(
                f"{self._where}: transform",
                f"{self._metric} is not a perplexity, so it may not have a logarithm",
                "Remove 'transform: log'.",
            )
        self._items_of: dict[tuple[Split, Hashable], tuple[_Item, ...]] = {}
        self._likelihood = self._answer_likelihood() if spec.measure == "answer_likelihood" else None
        self.info = TaskInfo(
            task=name,
            metric=self._metric,
            filter=self._filter.name,
            output_type=str(task.OUTPUT_TYPE),
            higher_is_better=bool(task.higher_is_better().get(self._metric, True)),
            aggregation=aggregation,
            weight=spec.weight,
            num_fewshot=self._examples.shots,
            examples=self._examples.source,
            items={split: len(positions) for split, positions in self._splits.items()},
            has_description=bool(task.config.description),
            chat=self._chat,
        )

    def requests(self, chosen: ItemSet, measure: Measure, model: EvalLM) -> list[Request]:
        """As ``Task.requests``: those that ``Task.build_all_requests`` of lm-eval makes, without answers.

        Raises:
            CandidateError: the model's chat template is missing, or fails on an item.
            FitnessError: the split has no such item, or no answer fits into the model's context.
        """
        try:
            items = self._asked(chosen, measure, self._format(model.tokenizer))
        except ChatError as error:  # of this model; that of the first candidate was seen before the search
            raise CandidateError(FailureKind.EVALUATION, str(error)) from None
        requests = [Request(self.info.task, item.name, each) for item in items for each in item.instances]
        for request in requests:
            request.instance.resps, request.instance.filtered_resps = [], {}  # of the candidate before
        check_room(self._where, model.max_length, [request.instance for request in requests])
        return requests

    def score(self, chosen: ItemSet, measure: Measure, model: EvalLM) -> TaskScore:
        """As ``Task.score``: the metric over the items of ``chosen``, and each item's part in it."""
        items = self._asked(chosen, measure, self._format(model.tokenizer))
        try:
            if self._likelihood is not None and measure is Measure.ANSWER_LIKELIHOOD:
                return self._likelihood.score(self.info.task, [item.answered for item in items])
            return self._evaluated(items)
        except OverflowError:
            raise self._not_finite(f"{self._metric} is too large for a number") from None
        except (CandidateError, FitnessError):
            raise
        except Exception as error:  # code of the task (filters, process_results, aggregation) met odd answers
            raise CandidateError(
                FailureKind.EVALUATION,
                f"task {self.info.task!r} cannot score the answers ({type(error).__name__}: {error})",
            ) from error

    def digest(self) -> TaskDigest:
        """What decides the scores of this task, of all splits; makes the requests, needs no model.

        Of a conversation it is the messages, not the template.
        """
        chat = as_json if self._chat is not None and self._chat.applied else None
        items = {split.value: self._items(split, chat) for split in Split}
        asked = self._asked(ItemSet(Split.SEARCH), Measure.ANSWER_LIKELIHOOD, chat)
        likelihood = self._likelihood and self._likelihood.digest([item.answered for item in asked])
        return digest_of_task(
            self._task,
            {
                "metric": self._metric,
                "filter": self._filter.name,
                "aggregation": self.info.aggregation,
                "higher is better": self.info.higher_is_better,
                "few-shot examples": f"{self.info.num_fewshot} from {self.info.examples}",
                **({} if self._chat is None else {"chat": self._chat.details}),
                **({"requests for reference answers": likelihood} if likelihood else {}),
            },
            {s: [i.answered for i in items[s]] for s in items},
        )

    def _evaluated(self, items: Sequence[_Item]) -> TaskScore:
        self._filter.apply([instance for item in items for instance in item.instances])
        raw = [(item.name, self._raw(item)) for item in items]
        found = [(name, results[self._metric]) for name, results in raw if self._metric in results]
        if not found:
            produced = dict.fromkeys(metric for _, results in raw for metric in results)
            raise self._unknown_metric(self._metric, produced)
        value = float(self._aggregate([result for _, result in found]))
        if not math.isfinite(value):
            raise self._not_finite(f"{self._metric} is {value}")
        info = self.info
        parts = tuple(
            ItemScore(name, *contribution(result, info.aggregation, self._aggregate))
            for name, result in found
        )
        return TaskScore(info.task, info.metric, value, info.higher_is_better, info.aggregation, parts)

    def _raw(self, item: _Item) -> Mapping[str, Any]:
        """What lm-eval says about one item, by metric."""
        ordered = sorted(item.instances, key=lambda instance: instance.idx)
        answers = [instance.filtered_resps[self._filter.name] for instance in ordered]
        # A task's code may change the document it is given; the next candidate needs it unchanged.
        results: Mapping[str, Any] = self._task.process_results(copy.deepcopy(item.document), answers)
        return results

    def check_requests(self, tokenizer: Any, context: int, splits: Iterable[Split]) -> int:
        """Makes the first request of the task, and counts the items of ``splits`` that a model cuts off.

        ``context`` is the length of the model's context in tokens: of a longer prompt lm-eval drops the
        beginning. With a chat template all requests are made: it may fail on any.

        Raises:
            FitnessError: no request can be made, or no answer fits into the context.
        """
        chat = self._format(tokenizer)
        if chat is not None:
            for split in Split:
                self._items(split, chat)
        first = self._requests(self._splits[Split.SEARCH][0], chat)
        check_room(self._where, context, first)
        for instance in first:
            if not token_count(tokenizer, instance) and instance.request_type != "loglikelihood_rolling":
                raise FitnessError(
                    "tokenizer",
                    f"it makes no tokens of the first request of task {self.info.task!r}",
                    "Does it belong to the model? The recipe's tokenizer section can name another.",
                )
        return sum(
            is_cut(item.instances, tokenizer, context)
            for split in splits
            for item in self._items(split, chat)
        )

    def close(self) -> None:
        """Nothing: it holds no resources."""

    def _format(self, tokenizer: Any) -> ChatFormat | None:
        """How conversations look with ``tokenizer``; ``None`` where there are none."""
        if self._chat is None or not self._chat.applied:
            return None
        return ChatFormat.of(self._chat, tokenizer, self._where)

    def _answer_likelihood(self) -> AnswerLikelihood:
        likelihood = AnswerLikelihood(self._task, self._where)
        likelihood.check((self._names[p], self._documents[p]) for p in self._splits[Split.SEARCH])
        return likelihood

    def _asked(self, chosen: ItemSet, measure: Measure, chat: Render | None) -> tuple[_Item, ...]:
        """The items of ``chosen`` with the requests for ``measure``."""
        items = self._chosen(chosen, chat)
        if self._likelihood is None or measure is Measure.METRIC:
            return items
        made = self._likelihood.instances
        return tuple(
            replace(i, instances=made(i.name, i.document, i.instances, in_chat=chat is not None))
            for i in items
        )

    def _chosen(self, chosen: ItemSet, chat: Render | None = None) -> tuple[_Item, ...]:
        # Of the whole split's requests: few-shot examples are drawn one item after the other.
        items = self._items(chosen.split, chat)
        names = [item.name for item in items]
        return tuple(items[p] for p in positions_of(chosen, self.info.task, names, self._where))

    def _items(self, split: Split, chat: Render | None = None) -> tuple[_Item, ...]:
        """The items of ``split``, in the order of the dataset, with their requests; built on first use."""
        place = split, getattr(chat, "key", chat)
        if place not in self._items_of:
            # Few-shot examples are drawn one item after the other: start every split from the same state.
            self._task.set_fewshot_seed(seed=SEED)
            self._items_of[place] = tuple(
                _Item(self._names[position], self._documents[position], self._requests(position, chat))
                for position in self._splits[split]
            )
        return self._items_of[place]

    def _requests(self, position: int, chat: Render | None = None) -> tuple[Instance, ...]:
        """One document's requests, as ``Task.build_all_requests`` makes them, without its progress bar."""
        task, document, settings = self._task, self._documents[position], self._chat
        self._examples.before(position)
        try:
            context = task.fewshot_context(
                document,
                num_fewshot=self._examples.shots,
                system_instruction=None if settings is None else settings.system,
                apply_chat_template=chat is not None,
                fewshot_as_multiturn=settings is not None and settings.fewshot_as_multiturn,
                chat_template=chat,
                gen_prefix=task.doc_to_prefix(document),
            )
            made = task.construct_requests(
                doc=document,
                ctx=context,
                metadata=(task.config.task, position, task.config.repeats),
                apply_chat_template=chat is not None,
                chat_template=chat,
            )
        except ChatError as error:
            raise ChatError(
                self._where,
                f"the chat template fails on item {self._names[position]} ({error.reason})",
                "Is it made for such conversations? With chat.fewshot_as_multiturn: false the examples are "
                "in one turn; chat.template can name another.",
            ) from None
        except Exception as error:  # templates and code of the task
            raise FitnessError(
                self._where,
                f"no request can be made of item {self._names[position]} ({type(error).__name__}: {error})",
                "Check doc_to_text, doc_to_target and num_fewshot of the task.",
            ) from error
        instances = made if isinstance(made, list) else [made]
        cap = self._fitness.max_gen_toks
        return tuple(
            with_answer_cap(instance, cap) if cap is not None else instance for instance in instances
        )

    def _refuse_unsupported(self) -> None:
        if getattr(self._task, "MULTIMODAL", False):
            raise FitnessError(self._where, "it needs images or sound, and models here read text only")
        if getattr(self._task, "UNSAFE_CODE", False):
            raise FitnessError(
                self._where,
                "it runs code that the model wrote, which is not supported",
                "Choose a task that only compares text.",
            )

    def _choose_filter(self, wanted: str | None) -> Any:
        # lm-eval has no public way to the filters of a task (0.4.13).
        filters = {each.name: each for each in self._task._filters}  # noqa: SLF001
        if wanted is None:
            return next(iter(filters.values()))
        if wanted not in filters:
            raise FitnessError(
                f"{self._where}: filter", f"the task has no filter {wanted!r}", _all_of("filter", filters)
            )
        return filters[wanted]

    def _choose_metric(self, wanted: str | None) -> str:
        known = [str(metric) for metric in self._task.aggregation()]
        if wanted not in known:
            known = list(dict.fromkeys([*known, *self._probed_metrics()]))
        if wanted is None and known:
            return known[0]
        if wanted is None or wanted not in known:
            raise self._unknown_metric(wanted or "", known)
        return wanted

    def _probed_metrics(self) -> tuple[str, ...]:
        """Metrics that come out for a made-up answer to the first document: some are declared nowhere."""
        made_up = {"generate_until": "", "loglikelihood_rolling": -1.0}
        try:
            instances = list(self._requests(0))
            for instance in instances:
                instance.resps = [made_up.get(instance.request_type, (-1.0, False))]
            self._filter.apply(instances)
            return tuple(self._raw(_Item(self._names[0], self._documents[0], tuple(instances))))
        except Exception:  # noqa: BLE001 (code of the task may not like the answer: then nothing is known)
            return ()

    def _unknown_metric(self, wanted: str, known: Iterable[str]) -> FitnessError:
        return FitnessError(
            f"{self._where}: metric",
            f"the task has no metric {wanted!r}",
            _all_of("metric", known, wanted),
        )

    def _not_finite(self, what: str) -> CandidateError:
        return CandidateError(FailureKind.NON_FINITE_SCORES, f"task {self.info.task!r}: {what}")


def build_tasks(fitness: FitnessSpec, base_dir: Path, *, as_drawn: bool = False) -> tuple[EvalTask, ...]:
    """The tasks of lm-eval in ``fitness``, groups and tags expanded, in the order of the experiment.

    ``as_drawn`` lets lm-eval draw few-shot examples from evaluated items too, as release 0.1.0 did.

    Raises:
        FitnessError: see ``EvalTask``; also a task that is not found, data that is not there, and a
            definition that would run code which is not trusted.
    """
    sandbox_templates()
    names = [spec.task for spec in fitness.tasks if spec.python is None]
    manager = task_manager(names, fitness.include_paths(base_dir))
    if not fitness.trust_remote_code:
        refuse_code(manager, names)
    built: list[EvalTask] = []
    for index, spec in enumerate(fitness.tasks):
        if spec.python is not None:
            continue
        members = load_tasks(manager, spec.task, f"fitness.tasks[{index}]: {spec.task}")
        each = spec.model_copy(update={"weight": spec.weight / len(members)})
        for name, task in members.items():
            shown = name if name == spec.task else f"{spec.task}/{name}"
            built.append(EvalTask(shown, task, each, fitness, as_drawn=as_drawn))
    return tuple(built)


def _all_of(kind: str, known: Iterable[str], wanted: str = "") -> str:
    names = list(known)
    near = did_you_mean(wanted, names) if wanted else ""
    listed = f"It has these {kind}s: {', '.join(names) or 'none'}."
    return f"{near} {listed}" if near.startswith("Did you mean") else listed
