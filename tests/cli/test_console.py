"""What the commands share for printing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evomerge.cli._console import interval, number, program, short, tell, warn


def test_brackets_in_a_text_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "models[0]: [/tmp] is no [bold]tag"
    warn(text)
    tell(text)
    assert capsys.readouterr().err.splitlines() == [f"Warning: {text}", text]


def test_numbers_and_intervals_have_a_dash_where_there_is_none() -> None:
    assert (number(None), number(0.12345), number(-123456.0)) == ("-", "0.123", "-1.235e+05")
    assert (interval(None, None), interval(-0.5, 1.0)) == ("-", "[-0.500, 1.000]")


def test_a_path_is_relative_where_it_lies_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "runs" / "a") == "runs/a"
    assert short(tmp_path.parent / "b") == str(tmp_path.parent / "b")


@pytest.mark.parametrize(
    ("called", "on_path", "expected"),
    [
        (".venv/bin/evomerge", False, ".venv/bin/evomerge"),
        (".venv/bin/evomerge", True, "evomerge"),
        ("somewhere/evomerge/cli/main.py", False, "evomerge"),
    ],
)
def test_a_line_to_copy_names_the_program_as_it_was_called(
    called: str, on_path: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".venv" / "bin" / "evomerge"
    file.parent.mkdir(parents=True)
    file.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(file.parent) if on_path else "")
    monkeypatch.setattr(sys, "argv", [called])
    assert program() == expected
