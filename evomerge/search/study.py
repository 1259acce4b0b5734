"""The study: the log of a search, and its only state. The door to Optuna (verified with 5.0).

A finished trial is one transaction in a database, one line in a journal. Trials that were finished once never
change; what comes later (validation, test) is a user attribute of the study, one key each.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import evomerge
from evomerge.errors import FailureKind, StudyError
from evomerge.fitness.scores import Scores, Split
from evomerge.recipe import Dimension, Value
from evomerge.search._lease import Lease
from evomerge.search._rows import MAIN, LeaseLost, Row, StoredScores
from evomerge.search._storage import Storage, open_storage, shown
from evomerge.workers.jobs import Failure, Seconds

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["AcceptedDrift", "Difference", "SplitResult", "Study", "Trial", "shown", "study_names", "versions"]

FORMAT = 1
"""Of what is stored; a study of a later format is refused."""

_STUDY = "evomerge"
_SCORES = "scores"
"""Item scores are one JSON text, not nested values: Optuna keeps every attribute in memory."""

_DECIDING = ("cma", "numpy", "optuna", "torch", "lm_eval")


@dataclass(frozen=True)
class Trial:
    """One finished evaluation. ``(generation, index)`` is its identity, not the order it finished in.

    Baselines have ``generation`` -1 and no vector. ``score`` is the fitness on search items, higher is
    better, ``None`` for a failed trial. ``recipe`` is a digest: equal digests are equal recipes.
    ``cached_from`` names the trial whose result answered this one. ``number`` is the study's own count, in
    the order of finishing (-1 until recorded).
    """

    kind: Literal["baseline", "candidate"]
    name: str
    generation: int
    index: int
    recipe: str
    vector: tuple[float, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    score: float | None = None
    scores: Scores | None = None
    failure: Failure | None = None
    fingerprint: str | None = None
    seconds: Seconds = field(default_factory=Seconds)
    cached_from: str | None = None
    attempts: int = 1
    number: int = -1

    @property
    def failed(self) -> bool:
        """Whether there is a failure instead of scores."""
        return self.failure is not None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the study's order."""
        return self.generation, self.index


@dataclass(frozen=True)
class SplitResult:
    """What became of a trial's model on the items of another split: either scores or a failure."""

    scores: Scores | None = None
    failure: Failure | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Difference:
    """One field in which two experiments differ; ``None`` where it is absent."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} -> {self.new!r}"


@dataclass(frozen=True)
class AcceptedDrift:
    """From here on the sampler went on from a history that it would not have proposed itself.

    The first ``generations`` are from before (``candidates`` in all; but for the first ``closed``, they may
    only have been begun); the others were proposed under ``versions``.
    """

    generations: int
    candidates: int
    versions: Mapping[str, str]
    closed: int


class Study:
    """An append-only log of trials; durable when a method returns.

    One process writes to a study, which holds its lease; any number may read it, each as of the moment it
    opened it.
    """

    name: str
    url: str
    """The storage, without a password: fit for messages."""

    def __init__(self, storage: Storage, name: str, dimensions: Sequence[Dimension] = ()) -> None:
        """Use ``open``."""
        self.name = name
        self.url = storage.url
        self.resumed = False
        self._storage = storage
        self._distributions = _distributions(dimensions)
        self._lease: Lease | None = None
        self._head: dict[str, Any] = {}
        self._trials: dict[tuple[int, int], Trial] = {}
        self._generations: dict[int, dict[int, Trial]] = {}
        self._splits: dict[tuple[Split, int], SplitResult] = {}

    @classmethod
    def open(
        cls,
        storage: str,
        name: str,
        *,
        document: Mapping[str, Any] | None = None,
        dimensions: Sequence[Dimension] = (),
        free: Collection[str] = (),
    ) -> Study:
        """The study ``name`` in ``storage``: created with the experiment ``document``, or opened.

        ``storage`` is ``sqlite:///file``, ``postgresql+psycopg://...``, ``journal:///file`` or a path that
        ends in ``.log`` (a journal). Without a document the study must exist, and is only read. ``free`` are
        dotted names of fields of the document that may change between two runs (``workers``,
        ``search.trials``).

        Raises:
            StudyError: The storage cannot be reached or read; there is no such study (those that are there
                are listed); another driver is at work on it; or it belongs to another experiment (the
                differing fields are listed).
        """
        opened = open_storage(storage, create=document is not None)
        study = cls(opened, name, dimensions)
        try:
            study._load(document)
            if document is not None:
                if study._trials:  # without one no run got anywhere, and the experiment may have been mended
                    study._refuse_others(document, free)
                study._remember(document)
        except BaseException:
            study.close()
            raise
        return study

    @property
    def document(self) -> dict[str, Any]:
        """The experiment: as the study was created with it; fields that may change, as of the last run."""
        document: dict[str, Any] = self._head["experiment"]
        return document

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide, as of the study's creation."""
        return dict(self._head["versions"])

    @property
    def accepted_drifts(self) -> tuple[AcceptedDrift, ...]:
        """Where the search went on although its sampler no longer proposed what is recorded, in order."""
        drifts = self._head.get("drifts", ())  # the first ones noted had no lag
        return tuple(AcceptedDrift(**{"closed": d["generations"] - 1, **d}) for d in drifts)

    def accept_drift(self, now: Mapping[str, str], lag: int) -> None:
        """Notes that all candidates so far stay as they are, whatever the sampler proposes in their place.

        ``now`` are the versions of the libraries that decide from here on, ``lag`` that of the search.
        """
        stored = {
            "generations": len(self.generations()),
            "candidates": len(self.candidates()),
            "versions": dict(now),
            "closed": self.closed(lag),
        }
        self._set_head({**self._head, "drifts": [*self._head.get("drifts", ()), stored]})

    def differing_fields(
        self, document: Mapping[str, Any], free: Collection[str] = ()
    ) -> tuple[Difference, ...]:
        """Where ``document`` differs from the study's own, apart from the ``free`` fields, in its order."""
        old, new = dict(_leaves(self.document)), dict(_leaves(_plain(document)))
        return tuple(
            Difference(place, old.get(place), new.get(place))
            for place in dict.fromkeys((*new, *old))
            if (place in old) != (place in new) or old.get(place) != new.get(place)
            if not any(place == f or place.startswith((f"{f}.", f"{f}[")) for f in free)
        )

    def record(self, trial: Trial) -> Trial:
        """Writes a finished trial in one transaction; returns it with its number.

        Raises:
            StudyError: The storage refused; this generation and index are recorded already; or another driver
                has taken the study over.
        """
        if trial.place in self._trials:
            raise StudyError(self._where(), f"{trial.name} is recorded already")
        row = _row(trial, self._distributions)
        with self._writing():
            number = self._storage.add_trial(self.name, row)
        recorded = replace(trial, number=number, scores=_scores(row))
        self._add(recorded)
        return recorded

    def trials(self) -> tuple[Trial, ...]:
        """Baselines, then candidates, by (generation, index)."""
        return tuple(self._trials[place] for place in sorted(self._trials))

    def trial(self, number: int) -> Trial:
        """The trial with the study's own ``number``.

        Raises:
            StudyError: There is none.
        """
        for trial in self._trials.values():
            if trial.number == number:
                return trial
        last = max((t.number for t in self._trials.values()), default=None)
        have = "it has none" if last is None else f"they run from 0 to {last}"
        raise StudyError(self._where(), f"there is no trial {number}; {have}")

    def baselines(self) -> tuple[Trial, ...]:
        """The baselines that have finished, in their order."""
        return tuple(t for t in self.trials() if t.kind == "baseline")

    def candidates(self) -> tuple[Trial, ...]:
        """The candidates that have finished, by (generation, index)."""
        return tuple(t for t in self.trials() if t.kind == "candidate")

    def generation(self, number: int) -> tuple[Trial, ...]:
        """The candidates of one generation that have finished, by index."""
        found = self._generations.get(number, {})
        return tuple(found[index] for index in sorted(found))

    def generations(self) -> tuple[tuple[Trial, ...], ...]:
        """The candidates by generation, each by index; of the last ones some may be missing."""
        return tuple(self.generation(n) for n in range(max(self._generations, default=-1) + 1))

    def closed(self, lag: int) -> int:
        """How many generations must be whole, as the last candidate is ``lag`` or more beyond their end.

        Raises:
            StudyError: One of them is not: the study is damaged.
        """
        begun = range(max(self._generations, default=-1) + 1)
        sizes = [max(self._generations.get(n, ()), default=-1) + 1 for n in begun]
        closed = [n for n, end in enumerate(accumulate(sizes)) if end + lag < sum(sizes)]
        if any(len(self._generations.get(n, ())) != max(sizes[n], 1) for n in closed):
            raise StudyError(
                self._where(), "the study is damaged: trials of an earlier generation are missing"
            )
        return len(closed)

    def best(self, kind: Literal["baseline", "candidate"] | None = None) -> Trial | None:
        """The best score on search items (the earlier of two equals), of one kind or of all."""
        scored = [t for t in self.trials() if t.score is not None and kind in (None, t.kind)]
        return max(scored, key=lambda t: t.score or 0.0, default=None)

    def record_split(self, number: int, split: Split, result: SplitResult) -> None:
        """Writes what trial ``number`` reached on ``split``, in one transaction, once.

        Raises:
            StudyError: The storage refused; it is recorded already; or another driver has the study.
        """
        key = f"{split.value}/{self.trial(number).number}"
        if (split, number) in self._splits:
            raise StudyError(self._where(), f"{key} is recorded already")
        with self._writing():
            self._storage.set_attribute(self.name, key, _split_text(result))
        self._splits[split, number] = result

    def split_results(self, split: Split) -> dict[int, SplitResult]:
        """What was recorded for ``split``, by trial number, in the order of numbers."""
        return {n: self._splits[s, n] for s, n in sorted(self._splits) if s == split}

    def split_scores(self, split: Split) -> dict[int, Scores]:
        """The scores on ``split``, by trial number; failures are left out. ``SEARCH``: the trials' own."""
        if split == Split.SEARCH:
            return {t.number: t.scores for t in self.trials() if t.scores is not None}
        return {n: r.scores for n, r in self.split_results(split).items() if r.scores is not None}

    def snapshot(self) -> dict[str, Any]:
        """All that must be equal between a study that was killed and resumed and one that was not.

        Plain JSON: ``trials`` (by generation and index), ``validation``, ``test``. Without numbers, times,
        attempts and the wording of failures.
        """
        names = {t.number: t.name for t in self.trials()}
        splits = {
            split.value: {names[n]: _split_snapshot(r) for n, r in self.split_results(split).items()}
            for split in (Split.VALIDATION, Split.TEST)
        }
        return {"trials": [_trial_snapshot(t) for t in self.trials()], **splits}

    def digest(self) -> str:
        """SHA-256 of the snapshot."""
        text = json.dumps(self.snapshot(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def close(self) -> None:
        """Releases lease and connection; may be called twice."""
        if self._lease is not None:
            self._lease.release()
        self._storage.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, trial: Trial) -> None:
        if trial.place not in self._trials:  # of two in one place, the first counts
            self._trials[trial.place] = trial
            self._generations.setdefault(trial.generation, {})[trial.index] = trial

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._lease is None:
            raise StudyError(self._where(), "was opened without its experiment, so it is only read")
        try:
            yield
        except LeaseLost:
            raise self._lease.lost() from None

    def _load(self, document: Mapping[str, Any] | None) -> None:
        names = self._storage.study_names()
        self.resumed = self.name in names
        if not self.resumed and document is None:
            there = f"It has: {', '.join(names)}." if names else "It has no studies."
            raise StudyError(self.url, f"there is no study {self.name!r}", there)
        if document is None:
            self._read(self._storage.attributes(self.name))
            return
        if not self.resumed:
            self._storage.create_study(self.name)
        elif (known := self._storage.attributes(self.name)) or self._storage.trials(self.name):
            self._checked_head(known)  # a stranger's study gets no lease
        self._lease = Lease(self._storage, self.name)
        attributes = self._storage.attributes(self.name)
        if _STUDY not in attributes:  # new, or killed between the transactions of its creation
            self._set_head({"format": FORMAT, "experiment": _plain(document), "versions": versions()})
            attributes[_STUDY] = self._head
        self._read(attributes)

    def _checked_head(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        head = attributes.get(_STUDY)
        if not isinstance(head, Mapping):
            raise StudyError(self._where(), "this study was not written by evomerge", "Choose another name.")
        if head["format"] > FORMAT:
            raise StudyError(
                self._where(),
                f"was written by a later evomerge ({head['versions'].get('evomerge')})",
                "Update.",
            )
        return dict(head)

    def _read(self, attributes: Mapping[str, Any]) -> None:
        self._head = self._checked_head(attributes)
        for row in self._storage.trials(self.name):
            if MAIN in row.attributes:
                self._add(_trial(row))
        for key in attributes:
            split, _, number = key.partition("/")
            if number.isdecimal():
                self._splits[Split(split), int(number)] = _split_from(attributes[key])

    def _refuse_others(self, document: Mapping[str, Any], free: Collection[str]) -> None:
        differences = self.differing_fields(document, free)
        if differences:
            listed = "".join(f"\n  - {d}" for d in differences)
            raise StudyError(
                self._where(),
                "exists with another experiment. Give the new one another name, or restore these fields "
                f"(study -> now):{listed}",
            )

    def _remember(self, document: Mapping[str, Any]) -> None:
        """Those who read the study later see the budget and the places of the models as they are now."""
        now = _plain(document)
        if now != self.document:
            self._set_head({**self._head, "experiment": now})

    def _set_head(self, head: dict[str, Any]) -> None:
        with self._writing():
            self._storage.set_attribute(self.name, _STUDY, head)
        self._head = head

    def _where(self) -> str:
        return f"study {self.name!r} in {self.url}"


def study_names(storage: str) -> tuple[str, ...]:
    """Names of the studies in ``storage``, sorted.

    Raises:
        StudyError: The storage cannot be reached or read.
    """
    opened = open_storage(storage, create=False)
    try:
        return opened.study_names()
    finally:
        opened.close()


def versions() -> dict[str, str]:
    """Installed versions of what decides a search: cma, numpy, optuna, torch, lm_eval, evomerge."""
    found = {}
    for name in _DECIDING:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return {**found, "evomerge": evomerge.__version__}


def _distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Optuna's words for the dimensions, for those who look at a study with its tools; not read here."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, BaseDistribution] = {}
    for d in dimensions:
        if d.kind == "float":
            made[d.name] = FloatDistribution(d.low, d.high, log=d.log)
        elif d.kind == "int":
            made[d.name] = IntDistribution(int(d.low), int(d.high))
        else:
            made[d.name] = CategoricalDistribution(d.choices)
    return made


def _row(trial: Trial, distributions: Mapping[str, BaseDistribution]) -> Row:
    main = {
        "kind": trial.kind,
        "name": trial.name,
        "generation": trial.generation,
        "index": trial.index,
        "recipe": trial.recipe,
        "vector": list(trial.vector),
        "values": dict(trial.values),
        "failure": _failure_document(trial.failure),
        "fingerprint": trial.fingerprint,
        "seconds": {"materialize": trial.seconds.materialize, "evaluate": trial.seconds.evaluate},
        "cached_from": trial.cached_from,
        "attempts": trial.attempts,
    }
    scores = {} if trial.scores is None else {_SCORES: _text(trial.scores.document())}
    known = {n: (distributions[n], v) for n, v in trial.values.items() if n in distributions}
    return Row(known, None if trial.failed else trial.score, {MAIN: main, **scores})


def _trial(row: Row) -> Trial:
    stored = row.attributes[MAIN]
    return Trial(
        kind=stored["kind"],
        name=stored["name"],
        generation=stored["generation"],
        index=stored["index"],
        recipe=stored["recipe"],
        vector=tuple(stored["vector"]),
        values=stored["values"],
        score=row.score,
        scores=_scores(row),
        failure=_failure_from(stored["failure"]),
        fingerprint=stored["fingerprint"],
        seconds=Seconds(**stored["seconds"]),
        cached_from=stored["cached_from"],
        attempts=stored["attempts"],
        number=row.number,
    )


def _scores(row: Row) -> Scores | None:
    text = row.attributes.get(_SCORES)
    return None if text is None else StoredScores(text)


def _split_text(result: SplitResult) -> str:
    return _text(
        {
            "scores": None if result.scores is None else result.scores.document(),
            "failure": _failure_document(result.failure),
            "fingerprint": result.fingerprint,
        }
    )


def _split_from(text: str) -> SplitResult:
    stored = json.loads(text)
    scores = None if stored["scores"] is None else Scores.from_document(stored["scores"])
    return SplitResult(scores, _failure_from(stored["failure"]), stored["fingerprint"])


def _failure_document(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else {"kind": failure.kind.value, "reason": failure.reason}


def _failure_from(stored: Mapping[str, str] | None) -> Failure | None:
    return None if stored is None else Failure(FailureKind(stored["kind"]), stored["reason"])


def _trial_snapshot(trial: Trial) -> dict[str, Any]:
    return {
        "kind": trial.kind,
        "name": trial.name,
        "generation": trial.generation,
        "index": trial.index,
        "recipe": trial.recipe,
        "vector": list(trial.vector),
        "values": dict(trial.values),
        "score": trial.score,
        "cached_from": trial.cached_from,
        **_split_snapshot(SplitResult(trial.scores, trial.failure, trial.fingerprint)),
    }


def _split_snapshot(result: SplitResult) -> dict[str, Any]:
    return {
        "scores": None if result.scores is None else result.scores.document(),
        "failure": None if result.failure is None else result.failure.kind.value,
        "fingerprint": result.fingerprint,
    }


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from the storage: lists for tuples, texts for enumerations."""
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, and every empty container, with its dotted name."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list) and node:
        for i, value in enumerate(node):
            yield from _leaves(value, f"{place}[{i}]")
    else:
        yield place, node
