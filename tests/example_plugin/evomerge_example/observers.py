"""An observer: one JSON line per trial in the run's folder."""

import json
from pathlib import Path

from evomerge import Observer
from evomerge.search.observers import observer


@observer("jsonl")
class JsonLines(Observer):
    """Writes ``trials.jsonl`` into the run's folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "trials.jsonl"

    def on_trial(self, trial, progress) -> None:
        """Append the trial."""
        with self._file.open("a") as file:
            file.write(json.dumps({"name": trial.name, "score": trial.score}) + "\n")
