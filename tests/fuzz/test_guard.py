"""The guard of the fuzz tests sees what it is there for."""

from __future__ import annotations

import pickle
import socket
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import fuzz_guard
import pytest
from fuzz_guard import BrokenError, guarded

from evomerge.errors import RecipeError


def spin() -> None:
    while True:
        pass


def fill() -> None:
    bytearray(2 * fuzz_guard.BYTES)


def connect() -> None:
    with socket.socket() as made:
        made.connect_ex(("127.0.0.1", 1))


def unpickle() -> None:
    pickle.loads(pickle.dumps(OrderedDict()))


def refuse() -> None:
    raise RecipeError("here", "wrong")


def refuse_silently() -> None:
    raise RecipeError("", " ")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: {}["x"], "KeyError"),
        (refuse_silently, "the message is empty"),
        (spin, "CPU time"),
        (fill, "MemoryError"),
        (connect, "socket.connect"),
        (unpickle, "pickle.find_class"),
        (lambda: subprocess.run(["true"], check=False), "subprocess.Popen"),
    ],
)
def test_what_no_input_may_do_is_seen(
    run: Callable[[], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_guard, "SECONDS", 0.5)
    with pytest.raises(BrokenError, match=message):
        guarded(run, tmp_path)


@pytest.mark.parametrize("change", ["write", "mkdir", "rename"])
def test_a_change_outside_the_folder_is_seen(change: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    (inside / "x").write_text("x")
    changes: dict[str, Callable[[], object]] = {
        "write": lambda: outside.write_text("y"),
        "mkdir": outside.mkdir,
        "rename": lambda: (inside / "x").rename(outside),
    }
    with pytest.raises(BrokenError, match="out"):
        guarded(changes[change], inside)


def test_results_and_clear_refusals_pass(tmp_path: Path) -> None:
    assert guarded(lambda: (tmp_path / "x").write_text("x"), tmp_path) is True
    assert guarded(refuse, tmp_path) is False
