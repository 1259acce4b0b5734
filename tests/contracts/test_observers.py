"""What every observer promises: it watches a search and changes nothing in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from cli_support import EXPERIMENT
from support import ROOT

from evomerge import Experiment, Observer, Run
from evomerge.cli._progress import LiveProgress
from evomerge.search.observers import OBSERVERS, Observers
from evomerge.search.results import Ending, SearchResult

Make = Callable[[Run], Observer]


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The observer of the example package is registered, too."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "example_plugin"))
    import evomerge_example.observers  # type: ignore[import-not-found]  # noqa: F401

    assert "jsonl" in OBSERVERS
    yield
    OBSERVERS._parts.pop("jsonl")
    for name in [m for m in sys.modules if m.startswith("evomerge_example")]:
        del sys.modules[name]


def all_observers(run: Run) -> list[Observer]:
    """One of each kind that there is."""
    registered = [OBSERVERS[name](run.experiment.folder) for name in OBSERVERS]
    return [Observer(), LiveProgress(run.experiment, quiet=False), *registered]


def make_run(folder: Path, name: str) -> Run:
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, "name": name}))
    return Run(Experiment.load(path, {"output.dir": str(folder / name)}))


def digest(run: Run) -> str:
    with run.study() as opened:
        return opened.study.digest()


def search_in_two_calls(run: Run, observers: Sequence[Observer]) -> None:
    """A search that is stopped after some trials, and its resumption."""
    calls: list[None] = []

    def should_stop() -> bool:
        calls.append(None)
        return len(calls) > 8

    assert run.search(observers=observers, should_stop=should_stop).ending is Ending.STOPPED
    assert run.search(observers=observers).ending is Ending.BUDGET


def test_a_search_with_every_observer_is_the_search_without_any(tmp_path: Path) -> None:
    alone, watched = make_run(tmp_path, "alone"), make_run(tmp_path, "watched")
    alone.search()
    search_in_two_calls(watched, all_observers(watched))
    with alone.study() as left, watched.study() as right:
        columns = ["materialize_s", "evaluate_s"]
        assert left.to_dataframe().drop(columns=columns).equals(right.to_dataframe().drop(columns=columns))


class Counting(Observer):
    """Notes the order of calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> object:
        if name.startswith("on_"):
            self.calls.append(name)
        return super().__getattribute__(name)


def test_calls_come_in_order_and_nothing_is_told_twice(tmp_path: Path) -> None:
    run, counting = make_run(tmp_path, "small"), Counting()
    search_in_two_calls(run, [counting])
    starts = [i for i, call in enumerate(counting.calls) if call == "on_start"]
    ends = [i for i, call in enumerate(counting.calls) if call == "on_end"]
    assert starts == [0, ends[0] + 1]
    assert ends[1] == len(counting.calls) - 1
    with run.study() as opened:
        assert counting.calls.count("on_trial") == len(opened.study.trials())


@pytest.mark.parametrize("method", [m for m in vars(Observer) if m.startswith("on_")])
def test_one_that_fails_is_told_nothing_more_and_the_others_are(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Observer):
        calls = 0

    def fail(self: Failing, *_: object) -> None:
        type(self).calls += 1
        raise RuntimeError("no connection")

    setattr(Failing, method, fail)
    other = Counting()
    both = Observers([Failing(), other])
    for _ in range(2):
        arguments = [None] * (getattr(Observer, method).__code__.co_argcount - 1)
        getattr(both, method)(*arguments)
    assert Failing.calls == 1
    assert other.calls == [method, method]
    assert "Failing failed" in caplog.text


def test_an_end_is_told_what_the_search_returns(tmp_path: Path) -> None:
    told: list[SearchResult] = []

    class Last(Observer):
        def on_end(self, result: SearchResult) -> None:
            told.append(result)

    found = make_run(tmp_path, "small").search(observers=[Last()])
    assert [r.winner for r in told] == [found.winner]
