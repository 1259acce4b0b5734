"""The study: the log of a search, and its only state. The door to Optuna (verified with 5.0).

A finished trial is one transaction in a database, one line in a journal. Trials that were finished once never
change; what comes later (validation, test) is a user attribute of the study, one key each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal

from evomerge.errors import StudyError
from evomerge.fitness.scored import ScoredDigest
from evomerge.fitness.scores import Scores, Split
from evomerge.recipe import Dimension
from evomerge.search._head import HEAD, AcceptedDrift, Difference, Head, versions, versions_text
from evomerge.search._lease import Driver, Lease, driver_of
from evomerge.search._records import (
    ItemLists,
    SplitResult,
    Trial,
    row_of,
    scores_of,
    split_result_of,
    split_snapshot,
    split_text,
    trial_of,
    trial_snapshot,
)
from evomerge.search._rows import MAIN, SENSELESS, LeaseLost, distributions
from evomerge.search._scored import SCORED, Known, known, refuse_other_tasks, scored_of, study_names
from evomerge.search._storage import Storage, open_storage, refuse_foreign, shown, storage_file

__all__ = [
    "AcceptedDrift",
    "Difference",
    "Driver",
    "Known",
    "SplitResult",
    "Study",
    "Trial",
    "known",
    "refuse_foreign",
    "shown",
    "storage_file",
    "study_names",
    "versions",
    "versions_text",
]


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
        self._distributions = distributions(dimensions)
        self._lease: Lease | None = None
        self._head = Head(experiment={}, versions={})
        self._trials: dict[tuple[int, int], Trial] = {}
        self._generations: dict[int, dict[int, Trial]] = {}
        self._splits: dict[tuple[Split, int], SplitResult] = {}
        self._items = ItemLists()
        self._scored: dict[str, Any] | None = None

    @classmethod
    def open(
        cls,
        storage: str,
        name: str,
        *,
        document: Mapping[str, Any] | None = None,
        dimensions: Sequence[Dimension] = (),
        free: Collection[str] = (),
        scored: ScoredDigest | None = None,
    ) -> Study:
        """The study ``name`` in ``storage``: created with the experiment ``document``, or opened.

        ``storage`` is ``sqlite:///file``, ``postgresql+psycopg://...``, ``journal:///file`` or a path that
        ends in ``.log`` (a journal). Without a document the study must exist, and is only read. ``free`` are
        dotted names of fields of the document that may change between two runs (``workers``,
        ``search.trials``). ``scored`` is what the experiment scores now; a study without trials takes it
        over, and so does one of release 0.1.0, which knows of none.

        Raises:
            StudyError: The storage cannot be reached or read; there is no such study (those that are there
                are listed); another driver is at work on it; or it belongs to another experiment (the
                differing fields are listed), or to tasks that were other ones then.
        """
        opened = open_storage(storage, create=document is not None)
        study = cls(opened, name, dimensions)
        try:
            study._load(document)
            if document is not None:
                study.check_experiment(document, free, scored)
                study._remember(document)
                study._remember_scored(scored)
        except BaseException:
            study.close()
            raise
        return study

    @property
    def document(self) -> dict[str, Any]:
        """The experiment: as the study was created with it; fields that may change, as of the last run."""
        return self._head.experiment

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide, as of the study's creation."""
        return dict(self._head.versions)

    @property
    def accepted_drifts(self) -> tuple[AcceptedDrift, ...]:
        """Where the search went on although its sampler no longer proposed what is recorded, in order."""
        return self._head.accepted_drifts

    @property
    def scored(self) -> ScoredDigest | None:
        """What its trials were scored on; ``None`` for one of release 0.1.0 and one without trials.

        Raises:
            StudyError: The study is damaged.
        """
        return scored_of(self._scored, self._where())

    def driver(self) -> Driver | None:
        """Who holds the study now, dead or alive; ``None`` if nobody does.

        Raises:
            StudyError: The storage cannot be read.
        """
        return driver_of(self._storage, self.name)

    def accept_drift(self, now: Mapping[str, str], lag: int) -> None:
        """Notes that all candidates so far stay as they are, whatever the sampler proposes in their place.

        ``now`` are the versions of the libraries that decide from here on, ``lag`` that of the search.
        """
        head = self._head.with_drift(len(self.generations()), len(self.candidates()), self.closed(lag), now)
        self._set_head(head)

    def differing_fields(
        self, document: Mapping[str, Any], free: Collection[str] = ()
    ) -> tuple[Difference, ...]:
        """Where ``document`` differs from the study's own, apart from the ``free`` fields, in its order."""
        return self._head.differences(document, free)

    def check_experiment(
        self, document: Mapping[str, Any], free: Collection[str] = (), scored: ScoredDigest | None = None
    ) -> None:
        """Check that the study belongs to the experiment ``document``, apart from the ``free`` fields.

        Raises:
            StudyError: It does not (the fields that differ are listed), or its trials were scored on other
                tasks than ``scored`` (those that changed, and what).
        """
        if not self._trials:  # no run got anywhere, and the experiment may have been mended since
            return
        differences = self.differing_fields(document, free)
        if differences:
            listed = "".join(f"\n  - {d}" for d in differences)
            raise StudyError(
                self._where(),
                "exists with another experiment. Give the new one another name, or restore these fields "
                f"(study -> now):{listed}",
            )
        if (then := self.scored) is not None and scored is not None:
            refuse_other_tasks(then, scored, self._where())

    def record(self, trial: Trial) -> Trial:
        """Writes a finished trial in one transaction; returns it with its number.

        The first with scores is preceded by the names of the items, in transactions of their own.

        Raises:
            StudyError: The storage refused; this generation and index are recorded already; or another driver
                has taken the study over.
        """
        if trial.place in self._trials:
            raise StudyError(self._where(), f"{trial.name} is recorded already")
        row = row_of(trial, self._distributions, self._items)
        with self._writing():
            self._record_items(trial.scores)
            number = self._storage.add_trial(self.name, row)
        recorded = replace(trial, number=number, scores=scores_of(row, self._items))
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
            self._record_items(result.scores)
            self._storage.set_attribute(self.name, key, split_text(result, self._items))
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
            split.value: {names[n]: split_snapshot(r) for n, r in self.split_results(split).items()}
            for split in (Split.VALIDATION, Split.TEST)
        }
        return {"trials": [trial_snapshot(t) for t in self.trials()], **splits}

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

    def _record_items(self, scores: Scores | None) -> None:
        for key, text in () if scores is None else self._items.missing(scores):
            self._storage.set_attribute(self.name, key, text)
            self._items.add(key, text)

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
            Head.read(known, self._where())  # a stranger's study gets no lease
        self._lease = Lease(self._storage, self.name)
        attributes = self._storage.attributes(self.name)
        if HEAD not in attributes:  # new, or killed between the transactions of its creation
            self._set_head(Head.of(document))
            attributes[HEAD] = self._head.stored()
        self._read(attributes)

    def _read(self, attributes: Mapping[str, Any]) -> None:
        self._head = Head.read(attributes, self._where())
        self._scored = attributes.get(SCORED)
        rows = self._storage.trials(self.name)
        with self._decoding("the items of a task"):
            for key, text in attributes.items():
                self._items.add(key, text)
        with self._decoding("a trial"):
            for row in rows:
                if MAIN in row.attributes:
                    self._add(trial_of(row, self._items))
        numbers = {trial.number for trial in self._trials.values()}
        with self._decoding("a result of validation or test"):
            for key in attributes:
                split, _, number = key.partition("/")
                if number.isdecimal() and int(number) in numbers:
                    self._splits[Split(split), int(number)] = split_result_of(attributes[key], self._items)

    @contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        try:
            yield
        except SENSELESS:
            raise StudyError(self._where(), f"the study is damaged: {what} cannot be read") from None

    def _remember_scored(self, scored: ScoredDigest | None) -> None:
        document = None if scored is None else scored.document()
        if document is not None and document != self._scored:
            with self._writing():
                self._storage.set_attribute(self.name, SCORED, document)
            self._scored = document

    def _remember(self, document: Mapping[str, Any]) -> None:
        """Those who read the study later see the budget and the places of the models as they are now."""
        now = self._head.with_experiment(document)
        if now != self._head:
            self._set_head(now)

    def _set_head(self, head: Head) -> None:
        with self._writing():
            self._storage.set_attribute(self.name, HEAD, head.stored())
        self._head = head

    def _where(self) -> str:
        return f"study {self.name!r} in {self.url}"
