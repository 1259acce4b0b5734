"""The contents of a study, and queries over them."""

from __future__ import annotations

import hashlib
import json
from itertools import accumulate
from typing import Any, Literal

from evomerge.errors import StudyError
from evomerge.fitness.scores import Scores, Split
from evomerge.study.serialization import split_snapshot, trial_snapshot
from evomerge.study.trial import MoreItems, SplitResult, Trial

__all__ = ["Contents"]


class Contents:
    """Trials, what was added to them, and results on other splits, as of the moment they were read."""

    name: str
    url: str
    """The URL of the storage without a password, for messages."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._trials: dict[tuple[int, int], Trial] = {}
        self._generations: dict[int, dict[int, Trial]] = {}
        self._events: dict[int, tuple[MoreItems, ...]] = {}
        self._splits: dict[tuple[Split, int], SplitResult] = {}
        self._by_metric: dict[int, SplitResult] = {}

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

    def count_closed(self, lag: int) -> int:
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

    def events(self, number: int) -> tuple[MoreItems, ...]:
        """What was added to trial ``number``, in order; ``trial`` has it all merged."""
        return self._events.get(number, ())

    def split_results(self, split: Split) -> dict[int, SplitResult]:
        """What was recorded for ``split``, by trial number, in the order of numbers."""
        return {n: self._splits[s, n] for s, n in sorted(self._splits) if s == split}

    def split_scores(self, split: Split) -> dict[int, Scores]:
        """The scores on ``split``, by trial number; failures are left out. ``SEARCH``: the trials' own."""
        if split == Split.SEARCH:
            return {t.number: t.scores for t in self.trials() if t.scores is not None}
        return {n: r.scores for n, r in self.split_results(split).items() if r.scores is not None}

    def metric_results(self) -> dict[int, SplitResult]:
        """What was recorded by the tasks' own metrics on search items, by trial number, in their order.

        Only where candidates are scored by another measure, of those that were scored by both.
        """
        return dict(sorted(self._by_metric.items()))

    def snapshot(self) -> dict[str, Any]:
        """Everything that must be equal between a study that was killed and resumed and one that was not.

        Plain JSON: ``trials`` (by generation and index), ``validation``, ``test``. Without numbers, times,
        attempts and the wording of failures. Where trials have results by two measures, also ``metric``.
        """
        names = {t.number: t.name for t in self.trials()}
        splits = {
            split.value: {names[n]: split_snapshot(r) for n, r in self.split_results(split).items()}
            for split in (Split.VALIDATION, Split.TEST)
        }
        if self._by_metric:
            splits["metric"] = {names[n]: split_snapshot(r) for n, r in self.metric_results().items()}
        return {"trials": [trial_snapshot(t) for t in self.trials()], **splits}

    def digest(self) -> str:
        """SHA-256 of the snapshot."""
        text = json.dumps(self.snapshot(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _where(self) -> str:
        return f"study {self.name!r} in {self.url}"
