"""Where a new search begins: at the best points of another study, or at recipes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evomerge.errors import ExperimentError, UserError
from evomerge.fitness.scored import ScoredDigest
from evomerge.fitness.scores import Split
from evomerge.recipe import SearchSpace, Values, load_recipe
from evomerge.runs.experiment import Experiment, read_document
from evomerge.runs.opened_study import OpenedStudy, open_study
from evomerge.runs.preflight import Preflight
from evomerge.search.samplers import Vector
from evomerge.study.study import SplitResult, Study, Trial
from evomerge.study.warm_start import TakenOver, WarmStart

__all__ = ["find_warm_start"]

_MOST_POINTS = 100
_SHOWN = 10
_FIELD = "search.warm_start"


def find_warm_start(experiment: Experiment, checked: Preflight) -> WarmStart | None:
    """What the study of ``experiment`` is to take over; ``None`` if nothing, or where that was done.

    A study that has trials, or that took over for the same experiment, no longer needs the other study.

    Results are taken over where models, tasks, items and compute dtype equal those of the other study; points
    where the new space can express them.

    Raises:
        ExperimentError: There is no such study or recipe, or nothing of it can be expressed.
    """
    given, study = experiment.spec.search.warm_start, checked.study
    digest = _digest(checked)
    if study.has_trials or study.warm_started == digest:
        return None
    if given is None:  # the experiment was corrected before the first trial
        return None if study.warm_started is None else WarmStart("", experiment=digest)
    try:
        if isinstance(given, str):
            with _other_study(given) as other:
                found = _from_study(experiment, checked, other)
        else:
            found = _from_recipes(experiment, [Path(text) for text in given])
    except UserError as exception:
        raise ExperimentError(_FIELD, str(exception)) from None
    if not found.vectors and not found.results:
        hint = "".join(f"{note[:1].upper()}{note[1:]}. " for note in found.notes).strip()
        raise ExperimentError(_FIELD, f"nothing of {found.source} can be taken over", hint)
    return replace(found, experiment=digest)


def _digest(checked: Preflight) -> str:
    """Digest of everything that decides what can be taken over."""
    document = checked.experiment.document(checked.sources)
    decides = {name: document[name] for name in ("sources", "recipe", "fitness", "workers")}
    decides |= {"from": document["search"]["warm_start"], "scored": checked.scored.document()}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def _other_study(text: str) -> OpenedStudy:
    storage, mark, name = text.rpartition("#")
    return OpenedStudy.of(Study.open(storage, name)) if mark and "://" in storage else open_study(text)


def _from_study(experiment: Experiment, checked: Preflight, other: OpenedStudy) -> WarmStart:
    trials = _rank(other)
    points = {t.name: _vector_of(experiment.space, t) for t in trials}
    vectors = [v for v in points.values() if v is not None]
    notes = _left_out(points, f"points of study {other.name!r}")
    why = _other_results(checked, other)
    results = {} if why else dict(_results(other))
    if why:
        notes += (f"results of study {other.name!r} are not taken over: {why}",)
    return WarmStart(other.name, tuple(dict.fromkeys(vectors))[:_MOST_POINTS], results, notes)


def _rank(other: OpenedStudy) -> list[Trial]:
    """Candidates, the best first: those that were validated by validation score, then the others."""
    scored = [t for t in other.study.candidates() if t.score is not None and t.cached_from is None]
    validation = {t.number: other.score(t, Split.VALIDATION) for t in scored}

    def rank(trial: Trial) -> tuple[bool, float, float]:
        score = validation[trial.number]
        return score is None, -(score or 0.0), -(trial.score or 0.0)

    return sorted(scored, key=rank)[:_MOST_POINTS]


def _vector_of(space: SearchSpace, trial: Trial) -> Vector | None:
    values = dict(trial.parameters)
    try:
        if space.decode(trial.vector) == values:  # the same point, so that its recipe is the same to the bit
            return trial.vector
    except (IndexError, ValueError):
        pass
    return _encode(space, values)


def _encode(space: SearchSpace, values: Mapping[str, object]) -> Vector | None:
    """``values`` as a point of ``space``; ``None`` where one is missing or outside its bounds."""
    vector = []
    for dimension in space.dimensions:
        value = values.get(dimension.name)
        try:
            coordinate = dimension.encode(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        low, high = dimension.span
        if not low - 1e-9 <= coordinate <= high + 1e-9:
            return None
        vector.append(min(max(coordinate, low), high))
    return tuple(vector)


def _other_results(checked: Preflight, other: OpenedStudy) -> str:
    """Why results of the other study cannot be used in this experiment; empty where they can."""
    theirs, ours = (
        read_document(other.study.document),
        read_document(checked.experiment.document(checked.sources)),
    )
    # A recipe that only one of the two can have answers nothing, so models that only one has do not matter.
    if any(ours["sources"].get(name, digest) != digest for name, digest in theirs["sources"].items()):
        return "its models or their weights differ"
    if theirs["workers"]["dtype"] != ours["workers"]["dtype"]:
        return "it calculated in another dtype (workers.dtype)"
    if theirs["workers"] != ours["workers"]:
        return "its models were run by another engine, or with other settings of it (workers.engine)"
    scored: ScoredDigest | None = other.study.scored
    if scored is None:
        return "it did not record what its tasks were (release 0.1.0)"
    if theirs["fitness"] != ours["fitness"] or scored != checked.scored:
        return "its fitness section or its tasks differ"
    return ""


def _results(other: OpenedStudy) -> Iterator[tuple[str, TakenOver]]:
    for trial in other.study.trials():
        if trial.cached_from is None and trial.scores is not None:
            result = SplitResult(trial.scores, None, trial.fingerprint)
            yield trial.recipe, TakenOver(f"{other.name}:{trial.name}", result)


def _from_recipes(experiment: Experiment, files: Sequence[Path]) -> WarmStart:
    short = {reference: name for name, reference in experiment.references.items()}
    points: dict[str, Vector | None] = {}
    for file in files:
        place = file if file.is_absolute() or file.exists() else experiment.path.parent / file
        values: Values | None = experiment.space.values_of(load_recipe(place).with_references(short))
        points[str(file)] = None if values is None else _encode(experiment.space, values)
    vectors = tuple(dict.fromkeys(v for v in points.values() if v is not None))
    return WarmStart(", ".join(points), vectors, {}, _left_out(points, "recipes"))


def _left_out(points: Mapping[str, Vector | None], what: str) -> tuple[str, ...]:
    """A sentence on the ``points`` that are not in the new space."""
    names = [name for name, vector in points.items() if vector is None]
    if not names:
        return ()
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"{len(names)} of {len(points)} {what} cannot be expressed in this search space: a hole has no "
        "value there, or one outside its bounds, or the rest of the recipe differs "
        f"({', '.join(names[:_SHOWN])}{more})",
    )
