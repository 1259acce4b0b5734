"""Where a new search begins: at the best points of another study, or at recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evomerge.errors import ExperimentError, UserError
from evomerge.fitness.scored import ScoredDigest
from evomerge.fitness.scores import Split
from evomerge.recipe import SearchSpace, Values, load_recipe
from evomerge.runs.experiment import Experiment, read_document
from evomerge.runs.opened_study import OpenedStudy, open_study
from evomerge.runs.preflight import Preflight
from evomerge.study.study import SplitResult, Study, Trial
from evomerge.study.warm_start import TakenOver, WarmStart

__all__ = ["find_warm_start"]

_MOST_POINTS = 100
_FIELD = "search.warm_start"


def find_warm_start(experiment: Experiment, checked: Preflight) -> WarmStart | None:
    """What a new study of ``experiment`` takes over; ``None`` where it asks for nothing.

    Results are taken over where models, tasks, items and compute dtype are those of the other study; points
    as far as the new space can express them.

    Raises:
        ExperimentError: There is no such study or recipe, or nothing of it can be expressed.
    """
    given = experiment.spec.search.warm_start
    if given is None:
        return None
    try:
        if isinstance(given, str):
            with _other_study(given) as other:
                found = _from_study(experiment, checked, other)
        else:
            found = _from_recipes(experiment, [Path(text) for text in given])
    except UserError as exception:
        raise ExperimentError(_FIELD, str(exception)) from None
    if not found.vectors and not found.results:
        raise ExperimentError(_FIELD, f"nothing of {found.source} can be taken over", " ".join(found.notes))
    return found


def _other_study(text: str) -> OpenedStudy:
    storage, mark, name = text.rpartition("#")
    return OpenedStudy.of(Study.open(storage, name)) if mark and "://" in storage else open_study(text)


def _from_study(experiment: Experiment, checked: Preflight, other: OpenedStudy) -> WarmStart:
    trials = _rank(other)
    vectors = [v for v in (_vector_of(experiment.space, t) for t in trials) if v is not None]
    notes = _left_out(len(trials), len(vectors), f"points of study {other.name!r}")
    why = _other_results(experiment, checked, other)
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


def _vector_of(space: SearchSpace, trial: Trial) -> tuple[float, ...] | None:
    values = dict(trial.parameters)
    try:
        if space.decode(trial.vector) == values:  # the same point, so that its recipe is the same to the bit
            return trial.vector
    except (IndexError, ValueError):
        pass
    return _encode(space, values)


def _encode(space: SearchSpace, values: Mapping[str, object]) -> tuple[float, ...] | None:
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


def _other_results(experiment: Experiment, checked: Preflight, other: OpenedStudy) -> str:
    """Why results of the other study are not results of this experiment; empty where they are."""
    theirs, ours = read_document(other.study.document), read_document(experiment.document(checked.sources))
    if theirs["sources"] != ours["sources"]:
        return "its models are others, or hold other weights"
    if theirs["workers"] != ours["workers"]:
        return "it calculated in another dtype (workers.dtype)"
    scored: ScoredDigest | None = other.study.scored
    if scored is None:
        return "it did not record what its tasks were (release 0.1.0)"
    if theirs["fitness"] != ours["fitness"] or scored != checked.scored:
        return "its fitness section or its tasks are others"
    return ""


def _results(other: OpenedStudy) -> Iterator[tuple[str, TakenOver]]:
    for trial in other.study.trials():
        if trial.cached_from is None and trial.scores is not None:
            result = SplitResult(trial.scores, None, trial.fingerprint)
            yield trial.recipe, TakenOver(f"{other.name}:{trial.name}", result)


def _from_recipes(experiment: Experiment, files: Sequence[Path]) -> WarmStart:
    short = {reference: name for name, reference in experiment.references.items()}
    vectors = []
    for file in files:
        place = file if file.is_absolute() or file.exists() else experiment.path.parent / file
        values: Values | None = experiment.space.values_of(load_recipe(place).with_references(short))
        vector = None if values is None else _encode(experiment.space, values)
        vectors += [] if vector is None else [vector]
    source = ", ".join(map(str, files))
    return WarmStart(
        source, tuple(dict.fromkeys(vectors)), {}, _left_out(len(files), len(vectors), "recipes")
    )


def _left_out(count: int, expressed: int, what: str) -> tuple[str, ...]:
    if count == expressed:
        return ()
    return (
        f"{count - expressed} of {count} {what} cannot be expressed in this search space: a hole has no "
        "value there, or one outside its bounds, or the rest of the recipe differs",
    )
