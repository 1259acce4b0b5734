"""evomerge init."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli._console import console
from evomerge.errors import OutputError, RecipeError, did_you_mean

__all__ = ["command"]


def command(
    name: Annotated[
        str | None, typer.Argument(help="A ready-made search space; they are listed if not given.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write, - for standard output; NAME.yml if not given."
        ),
    ] = None,
) -> None:
    """Copy a ready-made search space, to be edited."""
    from evomerge.recipe import write_whole
    from evomerge.runs.experiment import data_folder

    ready = {p.stem: p for p in sorted(data_folder("search_spaces").glob("*.yml"))}
    if name is None:
        for stem, path in ready.items():
            first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
            console.print(f"{stem:28} {first}")
        return
    if name not in ready:
        raise RecipeError(name, "no such search space", did_you_mean(name, ready))
    text = ready[name].read_text(encoding="utf-8")
    if output == Path("-"):
        sys.stdout.write(text)
        return
    target = output or Path(f"{name}.yml")
    if target.exists() or target.is_symlink():
        raise OutputError(str(target), "exists already", "Name another file with -o.")
    write_whole(target, text)
    console.print(f"Wrote {target}")
