"""What every storage promises a study: durable, in order, fenced, and readable by Optuna's own tools."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
import pytest
from storage_support import close_studies, postgres_server, storage

from evomerge.errors import FailureKind, StudyError
from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
from evomerge.recipe import SearchSpace
from evomerge.study.study import Basis, MoreItems, SplitResult, Study, Trial
from evomerge.study.warm_start import TakenOver, WarmStart
from evomerge.workers.jobs import Failure, Seconds

__all__ = ["close_studies", "postgres_server", "storage"]

SPACE = SearchSpace(
    {
        "merge_method": {"choice": ["ties", "dare_ties"]},
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": {"float": [0, 1.5]}, "density": {"float": [0.1, 1]}}},
            {"model": "b", "parameters": {"weight": 1}},
        ],
    }
)


def scores(*values: float, split: Split = Split.SEARCH, first: int = 0) -> Scores:
    items = tuple(ItemScore(f"i{first + n}", value) for n, value in enumerate(values))
    mean = sum(values) / len(values)
    task = TaskScore("zoo/add", "acc", mean, higher_is_better=True, aggregation="mean", items=items)
    return Scores(split, (task,))


def candidate(index: int, *values: float, generation: int = 0) -> Trial:
    found = scores(*values)
    vector = tuple(float(d.span[0]) for d in SPACE.dimensions)
    return Trial(
        "candidate",
        f"g{generation}.{index}",
        generation,
        index,
        f"recipe-{index}",
        vector,
        SPACE.decode(vector),
        (found.tasks[0].value,),
        found,
        fingerprint=f"{index:032x}",
        seconds=Seconds(0.25, 1.5),
    )


def baseline(*values: float) -> Trial:
    return replace(
        candidate(0, *values, generation=-1), kind="baseline", name="base", vector=(), parameters={}
    )


def opened(url: str, name: str = "s", **more: Any) -> Study:
    return Study.open(url, name, document={"a": 1}, dimensions=SPACE.dimensions, **more)


@contextmanager
def optuna_study(url: str) -> Iterator[optuna.Study]:
    """As Optuna's own tools open it."""
    if url.startswith("journal"):
        backend = optuna.storages.journal.JournalFileBackend(url.removeprefix("journal:///"))
        yield optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
        return
    database = optuna.storages.RDBStorage(url)
    try:
        yield optuna.load_study(study_name="s", storage=database)
    finally:
        database.remove_session()
        database.engine.dispose()


def test_what_is_written_is_read_back_equal_by_another_reader(storage: str) -> None:
    study = opened(storage)
    written = [
        study.record(baseline(0, 1)),
        study.record(candidate(0, 1, 0, 1)),
        study.record(
            replace(
                candidate(1, 0),
                scores=None,
                values=(),
                failure=Failure(FailureKind.TIMEOUT, "took 3 s: ünïcode \x00 and ' quotes\""),
            )
        ),
    ]
    study.record_split(written[1].number, Split.VALIDATION, SplitResult(scores(1, 1, split=Split.VALIDATION)))
    reader = Study.open(storage, "s")
    assert list(reader.trials()) == written
    assert reader.split_results(Split.VALIDATION).keys() == {written[1].number}
    assert reader.digest() == study.digest()


def test_items_that_are_added_later_are_events_and_change_no_trial(storage: str) -> None:
    study = opened(storage)
    trial = study.record(candidate(0, 1, 0))
    more = MoreItems((0.75,), scores(1, 1, first=2), Basis(4, standard_error=(0.2,)))
    merged = study.record_items(trial.number, more)
    assert merged.values == (0.75,)
    assert merged.basis.items == 4
    assert merged.scores is not None
    assert [i.item for i in merged.scores.tasks[0].items] == ["i0", "i1", "i2", "i3"]
    reader = Study.open(storage, "s")
    assert reader.trial(trial.number) == merged
    assert reader.events(trial.number) == (more,)
    with pytest.raises(StudyError):
        study.record_items(trial.number, more)  # these items are there already
    with optuna_study(storage) as native:
        assert native.trials[0].values == [0.5]  # as it was first written


def test_optunas_own_tools_see_values_directions_names_parameters_and_a_best_candidate(storage: str) -> None:
    study = opened(storage, metrics=("weighted_mean",))
    study.record(baseline(1, 1))  # the best of all, and not a candidate
    study.record(candidate(0, 0, 0))
    study.record(candidate(1, 1, 0))
    study.record(replace(candidate(2, 0), scores=None, values=(), failure=Failure(FailureKind.TIMEOUT, "x")))
    with optuna_study(storage) as native:
        assert [d.name for d in native.directions] == ["MAXIMIZE"]
        assert native.metric_names == ["weighted_mean"]
        best = native.best_trial
        states = [t.state.name for t in native.trials]
    assert best.user_attrs["name"] == "g0.1"
    assert best.values == [0.5]
    assert best.params == candidate(1, 0).parameters
    attributes = dict(best.user_attrs)
    assert attributes["score/zoo/add"] == 0.5
    assert attributes["fingerprint"] == f"{1:032x}"
    assert attributes["generation"] == 0
    assert (attributes["seconds_materialize"], attributes["seconds_evaluate"]) == (0.25, 1.5)
    assert all(isinstance(v, str | int | float) for v in attributes.values())
    assert states == ["PRUNED", "COMPLETE", "COMPLETE", "FAIL"]


def test_names_and_large_trials_are_kept_whole(storage: str) -> None:
    name = "ein Name mit Leerzeichen, 漢字 and 'quotes'"
    study = opened(storage, name)
    large = candidate(0, *(n % 2 for n in range(20_000)))
    assert study.record(large).scores == large.scores
    reader = Study.open(storage, name)
    assert reader.trials()[0].scores == large.scores


def test_what_it_took_over_is_read_back_equal(storage: str) -> None:
    study = opened(storage)
    results = {f"{n:032x}": TakenOver(f"old:g0.{n}", SplitResult(scores(1, 0), None, "f")) for n in range(70)}
    other = WarmStart("other", (), {"0" * 32: TakenOver("other:g0.1", SplitResult(scores(1), None, "f"))})
    warm = WarmStart("old", ((0.0, 0.5, 0.25),), results, ("a note",), "digest of an experiment")
    for taken in (other, warm):
        study.begin_from(taken)
        assert Study.open(storage, "s").warm_start == taken
    study.record(candidate(0, 1, 0))
    with pytest.raises(StudyError, match="has begun"):
        study.begin_from(warm)


def _write_for_ever(url: str, count: Any) -> None:
    with opened(url) as study:
        for index in range(10_000):
            study.record(candidate(index, 1, 0))
            count.value = index + 1


def test_a_driver_that_is_killed_between_writes_has_lost_none_that_it_reported(storage: str) -> None:
    context = multiprocessing.get_context("spawn")
    count = context.Value("i", 0)
    process = context.Process(target=_write_for_ever, args=(storage, count))
    process.start()
    deadline = time.monotonic() + 120
    while count.value < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    reported = count.value
    reader = Study.open(storage, "s")
    found = [t.index for t in reader.trials()]
    assert found == list(range(len(found)))
    assert reported <= len(found) <= reported + 1
    again = opened(storage)  # the lease of the dead is taken over
    again.record(candidate(len(found), 1, 0))
    assert len(Study.open(storage, "s").trials()) == len(found) + 1


def test_a_reader_writes_nothing(storage: str) -> None:
    opened(storage).record(candidate(0, 1))
    reader = Study.open(storage, "s")
    with pytest.raises(StudyError, match="only read"):
        reader.record(candidate(1, 1))
    assert [t.index for t in Study.open(storage, "s").trials()] == [0]
