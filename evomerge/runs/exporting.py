"""The recipe of the winner, or of any trial, as a file for ``evomerge merge``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import StudyError
from evomerge.fitness.scores import Split
from evomerge.recipe import Recipe, dump_recipe
from evomerge.runs.opened_study import OpenedStudy
from evomerge.runs.run_folder import check_recipe_target
from evomerge.study.study import Trial

__all__ = ["Exported", "choose_trial", "export_trial"]


@dataclass(frozen=True)
class Exported:
    """A trial's recipe and its results. ``text`` is the recipe file, whose comments state the results too.

    ``scores`` by split, higher is better; ``None`` where the trial was not scored.
    """

    recipe: Recipe
    text: str
    trial: int
    name: str
    scores: Mapping[str, float | None]
    fingerprint: str | None
    values: Mapping[str, Any]
    path: Path | None = None

    def summary(self) -> str:
        """The scores on one line."""
        return _scores_text(self.scores)


def choose_trial(opened: OpenedStudy) -> tuple[Trial, str | None]:
    """The winner, or before the finalists are validated the best candidate so far; and a warning if needed.

    Raises:
        StudyError: No candidate has a score.
    """
    best = opened.winner()
    if best is not None:
        missing, finalists = opened.unvalidated()
        if not missing:
            return best, None
        return best, (
            f"{missing} of {finalists} finalists have not been validated yet (the search is not finished): "
            "this is the best of the others."
        )
    best = opened.study.best("candidate")
    if best is None:
        raise StudyError(opened.name, "no candidate has been scored yet", "Let the search run first.")
    return best, (
        "no candidate has been validated yet (the search is not finished): this is the best by search score, "
        "which is partly luck."
    )


def export_trial(opened: OpenedStudy, trial: Trial, path: Path | None = None) -> Exported:
    """The recipe of ``trial``, written to ``path`` if given.

    Raises:
        OutputError: ``path`` holds something that no export wrote.
        RecipeError: The values of a failed candidate do not give a valid recipe.
    """
    from evomerge.version import __version__

    if path is not None:
        check_recipe_target(path)
    recipe = opened.recipe(trial)
    scores = {split.value: opened.score(trial, split) for split in Split}
    comments = [
        f"evomerge {__version__}: study {opened.name}, trial {trial.number} ({trial.name})",
        f"Scores: {_scores_text(scores)}",
    ]
    if trial.fingerprint is not None:
        comments.append(f"evomerge-fingerprint: {trial.fingerprint}")
    text = dump_recipe(recipe, path, comments)
    return Exported(
        recipe, text, trial.number, trial.name, scores, trial.fingerprint, dict(trial.parameters), path
    )


def _scores_text(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in scores.items())


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
