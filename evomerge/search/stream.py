"""What is proposed, and when: the candidates of a search as one stream, numbered in the order of submission.

The rule: the sampler is told whole generations, in the order of the stream, and candidate n is drawn when
exactly those generations have been told that end at least ``lag`` candidates before n. Other results that are
known by then are not used. So the stream is a function of settings, lag and scores; workers, timing and kills
do not change it. With a lag of 0 a generation is drawn when the one before is whole.

What was drawn ahead from a run that then converges is scored and recorded, but gives no update: its last
generation ends with the last candidate drawn, and the next run begins after it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.errors import FailureKind, StudyError
from evomerge.recipe import Dimension
from evomerge.search.samplers import Sampler, SamplerPlan, Told, Vector, is_same_point, make_sampler
from evomerge.study.manifest import differences, versions_text
from evomerge.study.study import Study, Trial, versions
from evomerge.workers.jobs import Failure

__all__ = ["DriftError", "Proposal", "Stream", "open_stream"]

_log = logging.getLogger(__name__)


class DriftError(StudyError):
    """The sampler proposes something else than the study recorded."""


@dataclass(frozen=True)
class Proposal:
    """One point to score; ``(generation, index)`` is its identity, not the order it finishes in."""

    generation: int
    index: int
    vector: Vector


@dataclass(eq=False)
class _Generation:
    """A generation that is not told yet: ``vectors`` so far, of ``size``; ``left`` are not recorded."""

    number: int
    size: int
    recorded: Mapping[int, Vector]
    left: int
    vectors: list[Vector] = field(default_factory=list)
    counts: bool = True
    foreign: bool = False
    """Whether it has other vectors than the sampler proposed, in a study whose drift was accepted."""
    rounded: bool = False
    """Whether what is recorded differs from what was proposed by rounding: another processor wrote it."""


class Stream:
    """The proposals of ``sampler``, compared with what ``study`` holds already.

    Where a drift was accepted, the recorded points replace those of the sampler. The stream ends after
    ``trials`` candidates, if need be within a generation.
    """

    def __init__(self, sampler: Sampler, lag: int, trials: int, study: Study) -> None:
        self._told = 0
        self._failures: list[Failure] = []  # of the candidates told
        self._sampler, self._lag, self._study = sampler, lag, study
        self._trials = trials
        drifts = study.accepted_drifts
        self._accepted = max((d.generations for d in drifts), default=0)
        self._closed = max((d.closed for d in drifts), default=0)
        self._open: deque[_Generation] = deque()
        self._begun = 0
        self._proposed = 0
        self._fresh: list[Proposal] = []
        self._draw()

    @property
    def generation(self) -> int:
        """The oldest generation that is not told."""
        return self._open[0].number if self._open else self._begun

    @property
    def population(self) -> int:
        """Its candidates; at the end of the stream only those that are proposed."""
        if not self._open:
            return 0
        begins = self._proposed - sum(len(g.vectors) for g in self._open)
        return max(0, min(self._open[0].size, self._trials - begins))

    @property
    def converged(self) -> bool:
        """Whether the stream ended because the sampler has nothing left to propose."""
        return not self._sampler.population and self._proposed < self._trials

    def take(self) -> list[Proposal]:
        """What has been proposed since the last call and is not in the study, in order."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def check_is_at(self, last: Trial) -> None:
        """Check that ``last``, the last candidate in the study, is among those proposed by now.

        Raises:
            DriftError: It is not: a generation before it has another size than the sampler's.
        """
        proposed = last.generation < self._begun
        if self._open and last.generation == self._open[-1].number:
            proposed = last.index < len(self._open[-1].vectors)
        if not proposed and last.generation >= self._accepted:
            raise _drift(self.generation, len(self._open[0].recorded) if self._open else 0)

    def note_recorded(self, trial: Trial) -> None:
        """A proposal taken from here has been recorded as ``trial``."""
        for generation in self._open:
            if generation.number == trial.generation:
                generation.left -= 1

    def tell(self) -> tuple[Trial, ...]:
        """The trials of the oldest generation if it is whole, after telling it; otherwise none."""
        if not self._open or self._open[0].left:
            return ()
        generation = self._open.popleft()
        trials = self._study.generation(generation.number)
        self._told += len(trials)
        self._failures += [t.failure for t in trials if t.failure is not None]
        if generation.counts:
            self._update(generation, trials)
        self._draw()
        return trials

    def refuse_mass_failure(self) -> None:
        """Check that at most half of the candidates told so far have failed.

        Raises:
            StudyError: More have failed.
        """
        if 2 * len(self._failures) <= self._told:
            return
        counts = {kind: sum(f.kind == kind for f in self._failures) for kind in FailureKind}
        listed = ", ".join(f"{n} {kind.value}" for kind, n in counts.items() if n)
        raise StudyError(
            f"study {self._study.name!r}",
            f"stopped: {len(self._failures)} of {self._told} candidates failed ({listed}); "
            f"the last: {self._failures[-1].reason}",
            "Fix the cause, or narrow the bounds that lead there, and begin a new study.",
        )

    def _update(self, generation: _Generation, trials: Sequence[Trial]) -> None:
        run = self._sampler.run
        if generation.foreign:
            self._sampler.adopt(generation.vectors)
        elif generation.rounded:
            self._sampler.restate(generation.vectors)
        self._sampler.tell([_as_told(v, t) for v, t in zip(generation.vectors, trials, strict=True)])
        if self._sampler.run != run or not self._sampler.population:
            for ahead in self._open:
                ahead.counts = False
            if self._open:
                self._end_generation(self._open[-1])

    def _end_generation(self, last: _Generation) -> None:
        """Ends a generation with the last candidate drawn, or with the last that was accepted."""
        kept = last.recorded if last.number < self._accepted else {}
        size = max(len(last.vectors), max(kept, default=-1) + 1)
        last.left -= last.size - size
        last.size = size
        for index in range(len(last.vectors), size):
            self._put(last, kept.get(index, kept[min(kept)]))

    def _draw(self) -> None:
        """Proposes what may be drawn from the current state of the sampler."""
        first = self._open[0].size if self._open else self._size(self._begun)
        count = first + self._lag - sum(len(g.vectors) for g in self._open)
        drawn = self._sampler.ask(count) if count > 0 else []
        for vector in drawn:
            if not self._open or len(self._open[-1].vectors) == self._open[-1].size:
                self._begin()
            self._put(self._open[-1], vector)
        if not self._open and self._begun < self._accepted and self._study.generation(self._begun):
            self._begin()  # the sampler has converged where the study went on
            self._end_generation(self._open[-1])
            self._open[-1].foreign = True

    def _size(self, number: int) -> int:
        recorded = self._recorded_vectors(number) if number < self._accepted else {}
        if number < self._closed:
            return len(recorded)
        return max(self._sampler.population, max(recorded, default=-1) + 1)

    def _recorded_vectors(self, number: int) -> dict[int, Vector]:
        return {t.index: t.vector for t in self._study.generation(number)}

    def _begin(self) -> None:
        number, size, recorded = self._begun, self._size(self._begun), self._recorded_vectors(self._begun)
        self._begun += 1
        if recorded and max(recorded) >= size:
            raise _drift(number, size)
        self._open.append(_Generation(number, size, recorded, size - len(recorded)))

    def _put(self, generation: _Generation, vector: Vector) -> None:
        index = len(generation.vectors)
        recorded = generation.recorded.get(index)
        if recorded is not None and recorded != vector:
            if generation.number < self._accepted:
                generation.foreign = True
            elif is_same_point(recorded, vector):
                generation.rounded = True
            else:
                raise _drift(generation.number, index)
            vector = recorded
        generation.vectors.append(vector)
        if recorded is None and self._proposed < self._trials:
            self._fresh.append(Proposal(generation.number, index, vector))
        self._proposed += 1


def open_stream(
    plan: SamplerPlan, dimensions: Sequence[Dimension], lag: int, trials: int, study: Study
) -> Stream:
    """The stream as it was when the last of the trials in ``study`` was recorded.

    Raises:
        DriftError: It proposes something else; the libraries that changed are named.
        StudyError: The study is damaged, or too many candidates have failed.
    """
    try:
        return _catch_up(make_sampler(plan, dimensions), lag, trials, study)
    except DriftError as drift:
        recorded = ([study.versions] + [d.versions for d in study.accepted_drifts])[-1]
        raise _name_changes(drift, recorded, versions()) from None


def _catch_up(sampler: Sampler, lag: int, trials: int, study: Study) -> Stream:
    """A stream that was told every generation recorded as whole, and has compared all recorded candidates."""
    study.count_closed(lag)  # is it damaged?
    stream = Stream(sampler, lag, trials, study)
    while stream.tell():
        stream.refuse_mass_failure()
    for last in study.candidates()[-1:]:
        stream.check_is_at(last)
    return stream


def _as_told(vector: Vector, trial: Trial) -> Told:
    return Told(vector, () if trial.score is None else (trial.score,), failed=trial.score is None)


def _drift(generation: int, index: int) -> DriftError:
    return DriftError("study", f"the sampler proposes another g{generation}.{index} than the study recorded")


def _name_changes(drift: DriftError, recorded: Mapping[str, str], now: Mapping[str, str]) -> DriftError:
    """``drift`` with the libraries that changed."""
    changed = versions_text(differences(recorded, now))
    why = f"; since then these versions changed: {changed}." if changed else ", though no version changed."
    first = "Install the recorded versions, or start" if changed else "Start"
    return DriftError(
        drift.where,
        drift.reason + why,
        f"{first} a successor, which begins at this study's best points and takes over its results "
        "(search.warm_start).",
    )
