"""The exceptions of evomerge.

    EvomergeError
    ├── UserError            one message for a person, exit code 2, no traceback
    │   ├── RecipeError          a recipe or a search space
    │   ├── ExperimentError      an experiment file
    │   ├── CheckpointError      a model folder or a file in it
    │   ├── FitnessError         lm-eval tasks, metrics, splits
    │   ├── StudyError           a study or its storage
    │   └── OutputError          a place to write to
    └── CandidateError       one candidate failed; recorded on its trial, the search continues

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import StrEnum

__all__ = [
    "CandidateError",
    "CheckpointError",
    "EvomergeError",
    "ExperimentError",
    "FailureKind",
    "FitnessError",
    "OutputError",
    "RecipeError",
    "StudyError",
    "UserError",
    "did_you_mean",
    "together",
]


class EvomergeError(Exception):
    """Base of every exception that evomerge raises on purpose."""


class UserError(EvomergeError):
    """A mistake that a person can correct: where it is, what is wrong, what to do.

    ``where`` names the file and the field (``experiment.yml: search.sigma``), ``reason`` says what is
    wrong, ``hint`` what to do about it (may be empty).
    """

    def __init__(self, where: str, reason: str, hint: str = "") -> None:
        super().__init__(where, reason, hint)  # all three in ``args``: the exception survives pickling
        self.where = where
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.reason}" if self.where else self.reason
        if "\n" in text and self.hint:  # a list: the hint stands below it
            return f"{text.rstrip()}\n{self.hint}"
        return f"{text.rstrip('.')}. {self.hint}" if self.hint else text

    def within(self, where: str) -> UserError:
        """The same error with ``where`` (a file, for example) in front of its place."""
        return type(self)(f"{where}: {self.where}" if self.where else where, self.reason, self.hint)


class RecipeError(UserError):
    """A recipe or a search space is wrong."""


class ExperimentError(UserError):
    """An experiment file is wrong."""


class CheckpointError(UserError):
    """A model folder, or a file in it, is missing, damaged or does not fit."""


class FitnessError(UserError):
    """An lm-eval task, metric or split is wrong."""


class StudyError(UserError):
    """A study or its storage is missing, unreachable or does not fit the experiment."""


class OutputError(UserError):
    """Something could not be written."""


class FailureKind(StrEnum):
    """Why a candidate failed; stored on its trial."""

    INVALID_RECIPE = "invalid_recipe"
    NON_FINITE_WEIGHTS = "non_finite_weights"
    NON_FINITE_SCORES = "non_finite_scores"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"
    EVALUATION = "evaluation"


class CandidateError(EvomergeError):
    """One candidate cannot be scored; its trial is recorded as failed and the search continues."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.reason}"


def together(errors: Sequence[UserError], what: str) -> UserError:
    """One error for ``errors`` (at least one), so that all of them are reported at once.

    ``what`` says what failed because of them: ``models cannot be read``.
    """
    texts = dict.fromkeys(str(error).replace("\n", "\n    ") for error in errors)
    if len(texts) == 1:
        return errors[0]
    listing = "".join(f"\n  - {text}" for text in list(texts)[:_LISTED])
    if len(texts) > _LISTED:
        listing += f"\n  - and {len(texts) - _LISTED} more"
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else CheckpointError
    return kind("", f"{len(texts)} {what}:{listing}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'weight'?``, or the list of known names; empty where there are none."""
    names = list(dict.fromkeys(known))
    # Comparing takes time that grows with the square of the length, and no misspelled name is that long.
    short = [n for n in names if len(n) <= _LONGEST] if len(name) <= _LONGEST else []
    near = difflib.get_close_matches(name, short, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"Known: {shown}."


_LONGEST = 200
_LISTED = 20
