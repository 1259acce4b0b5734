"""A task that is a Python class of the user's: its items, and a value for each of them."""

from __future__ import annotations

import copy
import json
import logging
import math
import numbers
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge.errors import CandidateError, EvomergeError, FailureKind, FitnessError
from evomerge.fitness.answering import SEED, Request
from evomerge.fitness.askable import EvalLM
from evomerge.fitness.chat_spec import chat_settings
from evomerge.fitness.items import ItemSet, Measure, positions_of
from evomerge.fitness.python_file import PythonClass, load_class, place_in
from evomerge.fitness.scored import ItemDigest, TaskDigest, short_digest
from evomerge.fitness.scores import ItemScore, Split, TaskScore
from evomerge.fitness.spec import FitnessSpec, TaskSpec
from evomerge.fitness.splits import digest, item_names, split_items
from evomerge.fitness.task_info import TaskInfo
from evomerge.fitness.task_lm import TaskLM

__all__ = ["PythonTask"]

_METRIC = "score"

_log = logging.getLogger(__name__)


class PythonTask:
    """The class that ``spec.python`` names, made once; its items divided into splits as those of any task.

    Raises:
        FitnessError: The file, the class or its items are wrong.
    """

    def __init__(self, spec: TaskSpec, fitness: FitnessSpec, base_dir: Path) -> None:
        file, _, name = str(spec.python).rpartition(":")
        self._where = f"fitness.tasks: {spec.task}"
        self._fitness = fitness
        self._class = load_class((base_dir / Path(file).expanduser()).resolve(), name, self._where)
        self._object = self._make()
        self._is_set_up = False
        self._documents = self._read_items()
        digests = [digest(document) for document in self._documents]
        self._refuse_copies(digests)
        self._names = item_names(digests)
        self._splits = split_items(digests, fitness.splits, fitness.limit, self._where)
        self.info = TaskInfo(
            task=spec.task,
            metric=_METRIC,
            filter="none",
            output_type="python",
            higher_is_better=self._higher_is_better(),
            aggregation="mean",
            weight=spec.weight,
            num_fewshot=0,
            examples="none",
            items={split: len(positions) for split, positions in self._splits.items()},
            chat=chat_settings(fitness.chat, None),
        )

    def requests(self, chosen: ItemSet, measure: Measure, model: EvalLM) -> list[Request]:
        """None: it asks in ``score``."""
        del chosen, measure, model
        return []

    def score(self, chosen: ItemSet, measure: Measure, model: EvalLM) -> TaskScore:
        """As ``Task.score``: the mean of what the class says of each item of ``chosen``.

        Random numbers that it draws from Python, NumPy or torch begin at the same state for every candidate.

        Raises:
            CandidateError: The class raised, or did not give one finite number for each item.
        """
        del measure  # it has one
        split = self._splits[chosen.split]
        names = [self._names[position] for position in split]
        found = positions_of(chosen, self.info.task, names, self._where)
        documents = [copy.deepcopy(self._documents[split[p]]) for p in found]  # its code may change them
        lm = TaskLM(model, self.info.task, self._where, self._fitness)
        with _same_random_numbers(model.device):
            self._set_up()
            values = self._values(self._answers(lm, documents), found, names)
        items = tuple(ItemScore(names[p], value) for p, value in zip(found, values, strict=True))
        mean = math.fsum(values) / len(values)
        info = self.info
        return TaskScore(info.task, info.metric, mean, info.higher_is_better, info.aggregation, items)

    def digest(self) -> TaskDigest:
        """What decides the scores: the documents, the code of the file and of what it imports beside it."""
        info = self.info
        aspects = {
            "metric": info.metric,
            "output type": info.output_type,
            "aggregation": info.aggregation,
            "higher is better": str(info.higher_is_better),
            **({} if info.chat is None else {"chat": info.chat.details}),
            "the class": self._class.value.__name__,
            "the task's code": self._class.code,
        }
        items = {
            split.value: tuple(self._item_digest(position) for position in positions)
            for split, positions in self._splits.items()
        }
        return TaskDigest(aspects, items)

    def check_requests(self, tokenizer: Any, context: int, splits: Iterable[Split]) -> int:
        """Zero: what it will ask is not known before it does."""
        del tokenizer, context, splits
        return 0

    def close(self) -> None:
        """Lets the class release what its ``setup`` made."""
        if self._is_set_up:
            self._is_set_up = False
            try:
                getattr(self._object, "close", lambda: None)()
            except Exception:  # noqa: BLE001 (it must not cost the scores that are there)
                _log.exception("%s.close() failed", _shown(self._class))

    def _item_digest(self, position: int) -> ItemDigest:
        content = short_digest(self._documents[position], 8)
        return ItemDigest(self._names[position], content, "-", content)

    def _make(self) -> Any:
        wanted = self._class.value
        lacks = [name for name in ("items", "score") if not callable(getattr(wanted, name, None))]
        if lacks:
            raise FitnessError(
                self._where,
                f"class {wanted.__name__} of {self._class.file.name} has no method {lacks[0]!r}",
                "It needs items() and score(lm, items).",
            )
        return self._built("made without arguments", wanted)

    def _higher_is_better(self) -> bool:
        given = getattr(self._object, "higher_is_better", True)
        if not isinstance(given, bool):
            raise FitnessError(self._where, f"higher_is_better is true or false, not {given!r}")
        return given

    def _read_items(self) -> list[dict[str, Any]]:
        documents = self._built("asked for its items", lambda: list(self._object.items()))
        if not documents:
            raise FitnessError(self._where, f"{_shown(self._class)}.items() gives no items")
        return [self._document(number, document) for number, document in enumerate(documents)]

    def _document(self, number: int, document: Any) -> dict[str, Any]:
        at = f"item {number} of {_shown(self._class)}.items()"
        if not isinstance(document, Mapping):
            raise FitnessError(self._where, f"{at} is not a dict but {type(document).__name__}")
        try:
            # Only what JSON knows looks the same in every process, which names and splits of items rest on.
            json.dumps(dict(document))
        except (TypeError, ValueError) as error:
            raise FitnessError(
                self._where, f"{at} holds more than texts, numbers, lists and dicts ({error})"
            ) from None
        return dict(document)

    def _refuse_copies(self, digests: Sequence[str]) -> None:
        first: dict[str, int] = {}
        for number, each in enumerate(digests):
            if first.setdefault(each, number) != number:
                raise FitnessError(
                    self._where,
                    f"items {first[each]} and {number} of {_shown(self._class)}.items() are equal",
                    "Leave one out, or add a field that tells them apart.",
                )

    def _built(self, what: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives before there is a candidate, where a failure is the user's to mend."""
        try:
            return make()
        except (Exception, SystemExit) as error:
            told = f"{place_in(self._class.file, error)}: {type(error).__name__}: {error}"
            name = self._class.value.__name__
            raise FitnessError(self._where, f"class {name} cannot be {what} ({told})") from error

    def _set_up(self) -> None:
        if not self._is_set_up:
            self._built("set up", getattr(self._object, "setup", lambda: None))
            self._is_set_up = True

    def _answers(self, lm: TaskLM, documents: list[dict[str, Any]]) -> list[Any]:
        try:
            given = self._object.score(lm, documents)
            if not isinstance(given, Iterable):
                raise self._failed(f"returned {type(given).__name__} in place of one value for each item")
            return list(given)
        except EvomergeError:  # of the model, or of lm
            raise
        except (Exception, SystemExit) as error:
            told = f"{place_in(self._class.file, error)}: {type(error).__name__}: {error}"
            raise self._failed(f"raised ({told})") from error

    def _values(self, given: Sequence[Any], found: Sequence[int], names: Sequence[str]) -> list[float]:
        if len(given) != len(found):
            raise self._failed(f"returned {len(given)} values for {len(found)} items")
        values = []
        for position, each in zip(found, given, strict=True):
            value = _number(each)
            if value is None:
                told = f"for item {names[position]} returned {type(each).__name__}, which is not a number"
                raise self._failed(told)
            if not math.isfinite(value):
                told = f"for item {names[position]} returned {value}"
                raise self._failed(told, FailureKind.NON_FINITE_SCORES)
            values.append(value)
        return values

    def _failed(self, told: str, kind: FailureKind = FailureKind.EVALUATION) -> CandidateError:
        return CandidateError(kind, f"task {self.info.task!r}: {_shown(self._class)}.score() {told}")


def _shown(of: PythonClass) -> str:
    return f"{of.file.name}:{of.value.__name__}"


def _number(given: Any) -> float | None:
    if isinstance(given, torch.Tensor | np.ndarray) and given.ndim == 0:
        given = given.item()
    return float(given) if isinstance(given, numbers.Real | np.bool_) else None


@contextmanager
def _same_random_numbers(device: torch.device) -> Iterator[None]:
    """Global generators begin at one state, and are afterwards as they were: samplers use one of them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what user code may draw from)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
