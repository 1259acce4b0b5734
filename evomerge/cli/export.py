"""evomerge export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli._console import console, number, print_json, warn
from evomerge.cli._studies import check_recipe_target, open_study
from evomerge.errors import OutputError, StudyError

if TYPE_CHECKING:
    from evomerge.cli._studies import OpenedStudy
    from evomerge.study.study import Trial

__all__ = ["command"]


def command(
    study: Annotated[
        str, typer.Argument(help="A run's folder, its name under runs/, or the experiment file.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The recipe to write; - for standard output.")
    ],
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the trial; the best by validation score if not given."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="URL of the storage; then STUDY is the name of a study in it.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the recipe of the best trial (or of another one) for evomerge merge."""
    from evomerge import __version__
    from evomerge.fitness.scores import Split
    from evomerge.recipe import dump_recipe
    from evomerge.search.ranking import fitness_of

    opened = open_study(study, storage)
    chosen = _best(opened) if trial is None else opened.study.trial(trial)
    recipe = opened.recipe(chosen)
    splits = {
        split.value: fitness_of(opened.study.split_scores(split).get(chosen.number), opened.fitness)
        for split in (Split.VALIDATION, Split.TEST)
    }
    scores = {"search": chosen.score, **splits}
    told = ", ".join(f"{name} {number(value)}" for name, value in scores.items())
    comments = [
        f"evomerge {__version__}: study {opened.study.name}, trial {chosen.number} ({chosen.name})",
        f"Scores: {told}",
    ]
    if chosen.fingerprint is not None:
        comments.append(f"evomerge-fingerprint: {chosen.fingerprint}")
    if output == Path("-"):
        if json_:
            raise OutputError("-o", "standard output takes either the recipe or --json", "Name a file.")
        sys.stdout.write(dump_recipe(recipe, comments=comments))
        return
    check_recipe_target(output)
    dump_recipe(recipe, output, comments)
    if json_:
        print_json(
            {
                "recipe": str(output),
                "trial": chosen.number,
                "name": chosen.name,
                "scores": scores,
                "fingerprint": chosen.fingerprint,
                "values": dict(chosen.parameters),
            }
        )
        return
    console.print(f"Wrote {output}: trial {chosen.number} ({chosen.name}), {told}")


def _best(opened: OpenedStudy) -> Trial:
    from evomerge.search.ranking import winner

    best = winner(opened.study, opened.fitness, opened.top_k)
    if best is not None:
        missing, finalists = opened.unvalidated()
        if missing:
            warn(
                f"{missing} of {finalists} finalists have not been validated yet (the search is not "
                "finished): this is the best of the others."
            )
        return best
    best = opened.study.best("candidate")
    if best is None:
        raise StudyError(opened.study.name, "no candidate has been scored yet", "Let the search run first.")
    warn(
        "no candidate has been validated yet (the search is not finished): this is the best by search "
        "score, which is partly luck."
    )
    return best
