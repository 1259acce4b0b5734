"""The study: the log of a search, and its only state.

A finished trial is one transaction in a database, one line in a journal. Trials that were finished once never
change; what comes later (validation, test, more items) is a user attribute of the study, one key each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from evomerge.errors import StudyError
from evomerge.fitness.scored import ScoredDigest
from evomerge.fitness.scores import Scores, Split
from evomerge.recipe import Dimension
from evomerge.study.contents import Contents
from evomerge.study.distributions import distributions_of
from evomerge.study.events import event_key, merge, ordered_events
from evomerge.study.item_scores import ItemLists
from evomerge.study.later_results import later_results, metric_key, split_key
from evomerge.study.lease import Driver, Epochs, Lease, driver_of
from evomerge.study.manifest import (
    MANIFEST,
    AcceptedDrift,
    Difference,
    Manifest,
    Read,
    versions,
    versions_text,
)
from evomerge.study.scored_tasks import SCORED, refuse_other_tasks, scored_of
from evomerge.study.serialization import (
    event_text,
    is_trial,
    row_of,
    scores_of,
    split_text,
    trial_of,
    writer_of,
)
from evomerge.study.storage import Storage, open_storage
from evomerge.study.storage_row import DAMAGE_ERRORS, EPOCHS, LeaseLost, StorageRow
from evomerge.study.trial import Basis, MoreItems, SplitResult, Trial
from evomerge.study.warm_start import WarmStart, warm_start_of, warm_start_texts

__all__ = [
    "AcceptedDrift",
    "Basis",
    "Difference",
    "Driver",
    "MoreItems",
    "SplitResult",
    "Study",
    "Trial",
    "versions",
    "versions_text",
]


class Study(Contents):
    """An append-only log of trials; durable when a method returns.

    One process writes to a study, which holds its lease; any number may read it, each as of the moment it
    opened it.
    """

    def __init__(
        self, storage: Storage, name: str, dimensions: Sequence[Dimension] = (), read: Read = dict
    ) -> None:
        """Use ``open``."""
        super().__init__(name, storage.url)
        self.resumed = False
        self._storage = storage
        self._distributions = distributions_of(dimensions)
        self._lease: Lease | None = None
        self._manifest = Manifest(experiment={}, versions={})
        self._read_document = read
        self._items = ItemLists()
        self._scored: dict[str, Any] | None = None
        self._warm_start: WarmStart | None = None

    @classmethod
    def open(  # noqa: PLR0913 (each is given by name)
        cls,
        storage: str,
        name: str,
        *,
        document: Mapping[str, Any] | None = None,
        dimensions: Sequence[Dimension] = (),
        free: Collection[str] = (),
        scored: ScoredDigest | None = None,
        read: Read = dict,
        metrics: Sequence[str] = ("score",),
    ) -> Study:
        """The study ``name`` in ``storage``: created with the experiment ``document``, or opened.

        ``storage`` is ``sqlite:///file``, ``postgresql+psycopg://...``, ``journal:///file`` or a path that
        ends in ``.log`` (a journal). Without a document the study must exist, and is only read. ``free`` are
        dotted names of fields of the document that may change between two runs (``workers``,
        ``search.trials``). ``scored`` is what the experiment scores now; a study without trials takes it
        over, and so does one of release 0.1.0, which knows of none. ``read`` gives a document that an earlier
        release stored the fields of today, before the two are compared. ``metrics`` names the values of a new
        study's trials for Optuna's tools.

        Raises:
            StudyError: The storage cannot be reached or read; there is no such study (those that are there
                are listed); another driver is at work on it; or it belongs to another experiment (the
                differing fields are listed), or to tasks that were other ones then.
        """
        opened = open_storage(storage, create=document is not None)
        study = cls(opened, name, dimensions, read)
        try:
            study._load(document, metrics)
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
        return self._manifest.experiment

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide, as of the study's creation."""
        return dict(self._manifest.versions)

    @property
    def accepted_drifts(self) -> tuple[AcceptedDrift, ...]:
        """Where the search continued although its sampler no longer proposed what is recorded, in order."""
        return self._manifest.accepted_drifts

    @property
    def scored(self) -> ScoredDigest | None:
        """What its trials were scored on; ``None`` for one of release 0.1.0 and one without trials.

        Raises:
            StudyError: The study is damaged.
        """
        return scored_of(self._scored, self._where())

    def driver(self) -> Driver | None:
        """The driver that holds the study now, dead or alive; ``None`` if there is none.

        Raises:
            StudyError: The storage cannot be read.
        """
        return driver_of(self._storage, self.name)

    @property
    def warm_start(self) -> WarmStart | None:
        """What it took over from another study or from recipes; ``None`` if nothing."""
        return self._warm_start

    def begin_from(self, warm: WarmStart) -> None:
        """Writes what the study takes over, before its first trial, in place of anything it took over before.

        Raises:
            StudyError: It has trials; the storage refused; or another driver has the study.
        """
        if self._trials:
            raise StudyError(self._where(), "has begun, so nothing can be taken over from another study")
        with self._writing():
            for taken in warm.results.values():
                self._record_items(taken.result.scores)
            for key, text in warm_start_texts(warm, self._items):
                self._storage.set_attribute(self.name, key, text)
        self._warm_start = warm

    def differing_fields(
        self, document: Mapping[str, Any], free: Collection[str] = ()
    ) -> tuple[Difference, ...]:
        """Where ``document`` differs from the study's own, apart from the ``free`` fields, in its order."""
        return self._manifest.differences(document, free, self._read_document)

    def check_experiment(
        self, document: Mapping[str, Any], free: Collection[str] = (), scored: ScoredDigest | None = None
    ) -> None:
        """Check that the study belongs to the experiment ``document``, apart from the ``free`` fields.

        Raises:
            StudyError: It does not (the fields that differ are listed), or its trials were scored on other
                tasks than ``scored`` (those that changed, and what).
        """
        if not self._trials:  # no trial was recorded, and the experiment may have been corrected since
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
        if trial.basis.items is None and trial.scores is not None:
            trial = replace(trial, basis=Basis.of(trial.scores))
        with self._writing() as lease:
            row = row_of(trial, self._distributions, self._items, lease.token)
            self._record_items(trial.scores)
            number = self._storage.add_trial(self.name, row)
        recorded = replace(trial, number=number, scores=scores_of(row, self._items))
        self._add(recorded)
        return recorded

    def record_split(self, number: int, split: Split, result: SplitResult) -> None:
        """Writes what trial ``number`` reached on ``split``, in one transaction, once.

        Raises:
            StudyError: The storage refused; it is recorded already; or another driver has the study.
        """
        key = split_key(split, self.trial(number).number)
        if (split, number) in self._splits:
            raise StudyError(self._where(), f"{key} is recorded already")
        with self._writing():
            self._record_items(result.scores)
            self._storage.set_attribute(self.name, key, split_text(result, self._items))
        self._splits[split, number] = result

    def record_metric(self, number: int, result: SplitResult) -> None:
        """Writes what trial ``number`` reached by the tasks' own metrics on search items, once.

        Raises:
            StudyError: The storage refused; it is recorded already; or another driver has the study.
        """
        key = metric_key(self.trial(number).number)
        if number in self._by_metric:
            raise StudyError(self._where(), f"{key} is recorded already")
        with self._writing():
            self._record_items(result.scores)
            self._storage.set_attribute(self.name, key, split_text(result, self._items))
        self._by_metric[number] = result

    def record_items(self, number: int, event: MoreItems) -> Trial:
        """Writes that trial ``number`` answered more items, in one transaction; the trial as it is now.

        Raises:
            StudyError: There is no such trial, it failed, or it has some of these items; the storage refused;
                or another driver has the study.
        """
        trial = self.trial(number)
        if trial.scores is None:
            raise StudyError(self._where(), f"{trial.name} has no scores, so no items can be added to it")
        try:
            merged = merge(trial, event)
        except ValueError as exception:
            raise StudyError(self._where(), f"{trial.name}: {exception}") from None
        done = self._events.get(number, ())
        with self._writing() as lease:
            self._record_items(event.scores)
            key = event_key(number, len(done), lease.token)
            self._storage.set_attribute(self.name, key, event_text(event, self._items))
        self._events[number] = (*done, event)
        self._replace(merged)
        return merged

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
            self._replace(trial)

    def _replace(self, trial: Trial) -> None:
        self._trials[trial.place] = trial
        self._generations.setdefault(trial.generation, {})[trial.index] = trial

    @contextmanager
    def _writing(self) -> Iterator[Lease]:
        if self._lease is None:
            raise StudyError(self._where(), "was opened without its experiment, so it is only read")
        try:
            yield self._lease
        except LeaseLost:
            raise self._lease.lost_error() from None

    def _load(self, document: Mapping[str, Any] | None, metrics: Sequence[str]) -> None:
        names = self._storage.study_names()
        self.resumed = self.name in names
        if not self.resumed and document is None:
            there = f"It has: {', '.join(names)}." if names else "It has no studies."
            raise StudyError(self.url, f"there is no study {self.name!r}", there)
        if document is None:
            self._read(self._storage.attributes(self.name), self._storage.trials(self.name))
            return
        self._make_mine(metrics)
        rows = self._storage.trials(self.name)
        attributes = self._storage.attributes(self.name)
        with self._writing() as lease:
            lease.begin(len(rows))
        if MANIFEST not in attributes:  # new, or killed between the transactions of its creation
            self._set_manifest(Manifest.of(document))
            attributes[MANIFEST] = self._manifest.stored()
        self._read(attributes, rows)

    def _make_mine(self, metrics: Sequence[str]) -> None:
        """Makes the study if it is not there, and takes its lease."""
        known = self._storage.attributes(self.name) if self.resumed else {}
        if known or (self.resumed and self._storage.trials(self.name)):
            Manifest.read(known, self._where())  # another program's study gets no lease
        else:
            self._storage.create_study(self.name, metrics)
        self._lease = Lease(self._storage, self.name)

    def _read(self, attributes: Mapping[str, Any], rows: Sequence[StorageRow]) -> None:
        self._manifest = Manifest.read(attributes, self._where())
        self._scored = attributes.get(SCORED)
        with self._decoding("the list of its drivers"):
            epochs = Epochs(self._storage.system_attribute(self.name, EPOCHS))
        with self._decoding("the items of a task"):
            for key, text in attributes.items():
                self._items.add(key, text)
        with self._decoding("what it took over"):
            self._warm_start = warm_start_of(attributes, self._items)
        with self._decoding("a trial"):
            for row in rows:
                if is_trial(row) and epochs.counts(writer_of(row), row.number):
                    self._add(trial_of(row, self._items))
        trials = {trial.number: trial for trial in self._trials.values()}
        with self._decoding("the items that were added to a trial"):
            for number, events in ordered_events(attributes, epochs, self._items).items():
                if number in trials:
                    self._events[number] = events
                    for event in events:
                        trials[number] = merge(trials[number], event)
                    self._replace(trials[number])
        with self._decoding("a result of validation or test"):
            later = later_results(attributes, trials, self._items)
        self._splits, self._by_metric = later.splits, later.by_metric

    @contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        try:
            yield
        except DAMAGE_ERRORS:
            raise StudyError(self._where(), f"the study is damaged: {what} cannot be read") from None

    def _remember_scored(self, scored: ScoredDigest | None) -> None:
        document = None if scored is None else scored.document()
        if document is not None and document != self._scored:
            with self._writing():
                self._storage.set_attribute(self.name, SCORED, document)
            self._scored = document

    def _remember(self, document: Mapping[str, Any]) -> None:
        """Store the free fields as they are now: later readers see the current budget and model folders."""
        now = self._manifest.with_experiment(document)
        if now != self._manifest:
            self._set_manifest(now)

    def _set_manifest(self, manifest: Manifest) -> None:
        with self._writing():
            self._storage.set_attribute(self.name, MANIFEST, manifest.stored())
        self._manifest = manifest
