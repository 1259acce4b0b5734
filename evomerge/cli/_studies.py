"""Finding the study that a command line means, and reading what it was made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    from evomerge.fitness.objectives import Fitness
    from evomerge.recipe import Recipe
    from evomerge.search.study import Study, Trial

__all__ = ["OpenedStudy", "open_study", "write_run_file"]

RUN_FILE = "run.json"


@dataclass(frozen=True)
class OpenedStudy:
    """A study with what its experiment says: how to judge, and how to write a trial's recipe."""

    study: Study
    fitness: Fitness
    top_k: int
    folder: Path | None

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a trial, with folders and hub ids in place of short names."""
        from evomerge.recipe import SearchSpace
        from evomerge.search.baselines import baselines

        document = self.study.document
        space = SearchSpace(document["recipe"])
        if trial.kind == "candidate":
            recipe = space.fill(dict(trial.values))
        else:
            recipe = next(b.recipe for b in baselines(space) if b.name == trial.name)
        return recipe.with_references(document["models"])


def write_run_file(folder: Path, document: dict[str, Any]) -> None:
    """Leaves beside the study what ``status`` and ``export`` need to find it again."""
    (folder / RUN_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def open_study(text: str, storage: str | None) -> OpenedStudy:
    """The study that ``text`` means: a run's folder, its name under runs/, an experiment file, or, with
    ``storage``, the name of a study.

    Raises:
        StudyError: There is none.
    """
    from evomerge.fitness.objectives import Fitness
    from evomerge.fitness.spec import FitnessSpec
    from evomerge.search.study import Study

    folder: Path | None = None
    if storage is not None:
        study = Study.open(storage, text)
    else:
        folder, url, name = _locate(text)
        study = Study.open(url, name)
    document = study.document
    spec = FitnessSpec.model_validate(document["fitness"])
    return OpenedStudy(study, Fitness(spec.tasks), int(document["search"]["top_k"]), folder)


def _locate(text: str) -> tuple[Path, str, str]:
    path = Path(text)
    if path.is_file() and path.suffix in (".yml", ".yaml"):
        from evomerge.search.experiment import Experiment

        experiment = Experiment.load(path)
        return experiment.folder, experiment.storage, experiment.name
    for folder in (path, Path("runs") / text):
        if (folder / RUN_FILE).is_file():
            run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
            if run.get("storage") is None:
                raise StudyError(
                    str(folder), f"its study {run['study']!r} is not in this folder", "Give --storage URL."
                )
            return folder, run["storage"], run["study"]
    known = [p.parent.name for p in sorted(Path("runs").glob(f"*/{RUN_FILE}"))]
    raise StudyError(
        text,
        "is no run's folder, no experiment file and no name under runs/",
        did_you_mean(Path(text).name, known) or "Start one with: evomerge search EXPERIMENT.yml",
    )
