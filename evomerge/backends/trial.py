"""A backend tried out before a search: in a process of its own, which leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

from evomerge.backends.registry import resident_model
from evomerge.backends.resident import ModelSettings
from evomerge.errors import CandidateError, FailureKind, UserError
from evomerge.recipe import Recipe

__all__ = ["run_trial", "try_out"]

_LAST_LINES = 3


def try_out(backend: str, settings: ModelSettings, recipe: Recipe) -> None:
    """Makes the model of ``recipe`` once, as a worker will.

    Raises:
        UserError: It cannot be made, or the backend refuses it; or the process ended without a word.
    """
    with tempfile.TemporaryDirectory(prefix="evomerge-trial-") as name:
        told, answer = Path(name) / "told", Path(name) / "answer"
        told.write_bytes(pickle.dumps((backend, settings, recipe)))
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(told), str(answer)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        if not answer.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()][-_LAST_LINES:]
            raise UserError(
                "workers.engine",
                f"{backend} ended its process when it was tried (exit code {done.returncode}): "
                + " ".join(said),
            )
        error = pickle.loads(answer.read_bytes())  # noqa: S301 (our own process wrote it)
    if error is not None:
        raise error


def run_trial(told: str, answer: str) -> None:
    """What the process does: ``told`` is read, ``answer`` is written; a pickled ``UserError``, or None."""
    backend, settings, recipe = pickle.loads(Path(told).read_bytes())  # noqa: S301 (our own process wrote it)
    error: UserError | None = None
    try:
        model = resident_model(backend, settings)
        model.load(recipe)
    except UserError as exception:
        error = exception
    except CandidateError as exception:
        error = UserError("recipe", f"the first candidate fails ({exception})")
        if exception.kind is FailureKind.WORKER_DIED:
            error = UserError("workers.engine", f"{backend} cannot run this model: {exception.reason}")
    Path(answer).write_bytes(pickle.dumps(error))
    os._exit(0)  # ending an engine in order takes seconds


_RUN = "import sys; from evomerge.backends.trial import run_trial; run_trial(*sys.argv[1:])"
