"""Ctrl-C and SIGTERM: the command shuts down cleanly and says how to continue."""

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
"""The exit code of a command that was stopped by Ctrl-C or SIGTERM and can be continued."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, ``handler`` receives Ctrl-C and SIGTERM; afterwards the former handlers are back."""
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def stoppable(told: str) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the block: it cleans up, then ``told`` and the command line are printed.

    A second signal ends the process at once.
    """
    stopped = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            os._exit(STOPPED)
        stopped = True
        tell(f"\n{name_of(number)}: stopping; a second signal stops at once.")
        raise KeyboardInterrupt

    with handling(stop):
        try:
            yield
        except KeyboardInterrupt:
            tell(f"{told} Run it again with:\n  {command_line()}")
            raise typer.Exit(STOPPED) from None


def name_of(number: int) -> str:
    """The name of the signal for messages."""
    return "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
