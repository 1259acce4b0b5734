"""Ctrl-C and SIGTERM: the command ends in order and says how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import typer

from evomerge.cli._console import command_line, tell

__all__ = ["STOPPED", "handling", "name_of", "stoppable"]

STOPPED = 130
"""The exit code of a command that was stopped by Ctrl-C or SIGTERM and can go on."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, ``handler`` gets Ctrl-C and SIGTERM; afterwards whoever had them before."""
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def stoppable(told: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block alike: it cleans up, then ``told`` and the command line are printed.

    The second one ends the process at once, wherever it is.
    """
    stopped = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            os._exit(STOPPED)
        stopped = True
        tell(f"\n{name_of(number)}: stopping; once more leaves at once.")
        raise KeyboardInterrupt

    with handling(stop):
        try:
            yield
        except KeyboardInterrupt:
            tell(f"{told} Again with:\n  {command_line()}")
            raise typer.Exit(STOPPED) from None


def name_of(number: int) -> str:
    """The signal as a person knows it."""
    return "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
