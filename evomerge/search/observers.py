"""Observers of a search: called after a result is in the study, without influence on the search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from evomerge.errors import ExperimentError, UserError, did_you_mean
from evomerge.fitness.scores import Split
from evomerge.registry import Registry
from evomerge.search.progress import Progress
from evomerge.search.results import SearchResult
from evomerge.study.study import SplitResult, Study, Trial

__all__ = [
    "OBSERVERS",
    "MakeObserver",
    "Observer",
    "Observers",
    "check_observers",
    "make_observers",
    "observer",
]

_log = logging.getLogger(__name__)


class Observer:
    """Receives the events of a search, all from the driver's thread; override the methods you need.

    Calls for one search: ``on_start``, then phases with their trials, then ``on_end``. A killed search does
    not call ``on_end``; the run that resumes it begins with ``on_start`` again, and reports no trial twice.
    """

    def on_start(self, study: Study) -> None:
        """The search begins; ``study.resumed`` says whether an earlier run left trials."""

    def on_phase(self, progress: Progress) -> None:
        """A phase begins (also when a resumed study has nothing left to do in it)."""

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        """A baseline or a candidate is recorded."""

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
        """A generation is complete, and was told to the sampler unless its run had converged before."""

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
        """A trial's result on validation or test items is recorded; in phase ``metrics``, on search items."""

    def on_end(self, result: SearchResult) -> None:
        """The search is over, or was stopped by ``should_stop``."""


class Observers(Observer):
    """Several observers as one. One that raises is logged and not called again; the search continues.

    A ``UserError`` passes: it is meant for the person who runs the search.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._watching = list(observers)

    def on_start(self, study: Study) -> None:
        """Tell all."""
        self._tell(lambda o: o.on_start(study))

    def on_phase(self, progress: Progress) -> None:
        """Tell all."""
        self._tell(lambda o: o.on_phase(progress))

    def on_trial(self, trial: Trial, progress: Progress) -> None:
        """Tell all."""
        self._tell(lambda o: o.on_trial(trial, progress))

    def on_generation(self, trials: Sequence[Trial], progress: Progress) -> None:
        """Tell all."""
        self._tell(lambda o: o.on_generation(trials, progress))

    def on_split(self, trial: Trial, split: Split, result: SplitResult, progress: Progress) -> None:
        """Tell all."""
        self._tell(lambda o: o.on_split(trial, split, result, progress))

    def on_end(self, result: SearchResult) -> None:
        """Tell all."""
        self._tell(lambda o: o.on_end(result))

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for observer in tuple(self._watching):
            try:
                call(observer)
            except UserError:
                raise
            except Exception:  # noqa: BLE001 (it is not ours, and must not cost a search)
                self._watching.remove(observer)
                _log.exception("the observer %s failed and is not called again", type(observer).__name__)


MakeObserver = Callable[[Path], Observer]
"""Makes an observer for one search, given the run's folder (a place for files of its own)."""

OBSERVERS: Registry[MakeObserver] = Registry("observer", "evomerge.observers")
"""Observers that ``observers`` of an experiment may name."""


def observer(name: str) -> Callable[[MakeObserver], MakeObserver]:
    """A decorator that registers a function, or an ``Observer`` class, as the observer ``name``.

    Raises:
        ValueError: The name is taken.
    """

    def register(make: MakeObserver) -> MakeObserver:
        OBSERVERS.add(name, make)
        return make

    return register


def check_observers(names: Sequence[str]) -> None:
    """Check that there is an observer of each name.

    Raises:
        ExperimentError: There is none.
    """
    for name in names:
        if name not in OBSERVERS:
            hint = " ".join((did_you_mean(name, OBSERVERS), *OBSERVERS.failures)).strip()
            raise ExperimentError(
                "observers", f"there is no observer {name!r}", hint or "Install the package that has it."
            )


def make_observers(names: Sequence[str], folder: Path) -> tuple[Observer, ...]:
    """One observer for each of ``names``, for a search in the run's ``folder``.

    Raises:
        ExperimentError: There is none of a name.
    """
    check_observers(names)
    return tuple(OBSERVERS[name](folder) for name in names)
