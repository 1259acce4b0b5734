"""The progress of a search, for display."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from evomerge.study.study import Study, Trial

__all__ = ["Meter", "Phase", "Progress"]


class Phase(StrEnum):
    """What the search is doing."""

    BASELINES = "baselines"
    SEARCH = "search"
    METRICS = "metrics"
    """Baselines and finalists by their metrics, where the search uses another measure."""
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Progress:
    """The progress of a search; ``seconds`` and ``evaluated`` count this phase of this run only."""

    phase: Phase
    done: int
    """Finished in this phase, by this run and those before."""
    total: int
    """To be finished in this phase."""
    generation: int
    """The oldest generation that is not yet told (in ``on_generation``: the one just told), from 0; -1 before
    the first."""
    population: int
    """Candidates in it."""
    evaluated: int
    seconds: float
    best: Trial | None
    """The best candidate so far, by search score."""
    best_baseline: Trial | None

    @property
    def rate(self) -> float | None:
        """Finished a second in this phase and run; ``None`` before the first."""
        return self.evaluated / self.seconds if self.evaluated and self.seconds > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds to the end of this phase at that rate; ``None`` before the first."""
        return None if self.rate is None else (self.total - self.done) / self.rate


class Meter:
    """Counts what finishes. ``generation`` and ``population`` are for its owner to set."""

    def __init__(self, study: Study) -> None:
        self.generation, self.population = -1, 0
        self._best, self._best_baseline = study.best("candidate"), study.best("baseline")
        self._phase, self._done, self._total, self._evaluated = Phase.BASELINES, 0, 0, 0
        self._since = time.monotonic()

    def begin(self, phase: Phase, done: int, total: int) -> None:
        """A phase begins."""
        self._phase, self._done, self._total, self._evaluated = phase, done, total, 0
        self._since = time.monotonic()

    def count(self, trial: Trial | None) -> None:
        """One more is finished."""
        self._done += 1
        self._evaluated += 1
        if trial is None or trial.score is None:
            return
        if trial.kind == "candidate":
            self._best = _better(self._best, trial)
        else:
            self._best_baseline = _better(self._best_baseline, trial)

    def read(self) -> Progress:
        """The counts now."""
        return Progress(
            self._phase,
            self._done,
            self._total,
            self.generation,
            self.population,
            self._evaluated,
            time.monotonic() - self._since,
            self._best,
            self._best_baseline,
        )


def _better(old: Trial | None, new: Trial) -> Trial:
    if old is None or old.score is None or (new.score is not None and new.score > old.score):
        return new
    return old
