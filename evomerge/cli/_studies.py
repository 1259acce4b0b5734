"""Finding the study that a command line means, and reading what it was made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import OutputError, StudyError, did_you_mean

if TYPE_CHECKING:
    from evomerge.fitness.objectives import Fitness
    from evomerge.recipe import Recipe, SearchSpace
    from evomerge.search.experiment import Experiment
    from evomerge.search.search_section import SearchSpec
    from evomerge.search.study import Study, Trial

__all__ = [
    "RUN_FILE",
    "OpenedStudy",
    "RunFile",
    "check_recipe_target",
    "open_study",
    "run_file_kind",
    "write_run_file",
]

RUN_FILE = "run.json"


class RunFile(Enum):
    """Whose the ``run.json`` of a folder is."""

    ABSENT = "absent"
    OURS = "ours"
    OTHER = "other"


@dataclass(frozen=True)
class OpenedStudy:
    """A study with what its experiment says: how to judge, and how to write a trial's recipe."""

    study: Study
    fitness: Fitness
    search: SearchSpec

    @property
    def top_k(self) -> int:
        """How many candidates are compared on validation items."""
        return self.search.top_k

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        from evomerge.recipe import SearchSpace

        return SearchSpace(self.study.document["recipe"])

    def unvalidated(self) -> tuple[int, int]:
        """Finalists without a result on validation items, and finalists."""
        from evomerge.fitness.scores import Split
        from evomerge.search.ranking import finalists

        best = finalists(self.study, self.top_k)
        done = self.study.split_results(Split.VALIDATION)
        return sum(1 for t in best if t.number not in done), len(best)

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a trial, with folders and hub ids in place of short names."""
        from evomerge.search.baselines import baselines

        space = self.space
        if trial.kind == "candidate":
            recipe = space.fill(dict(trial.values))
        else:
            recipe = next(b.recipe for b in baselines(space) if b.name == trial.name)
        return recipe.with_references(self.study.document["models"])


def write_run_file(folder: Path, experiment: Experiment) -> None:
    """Leaves beside the study what ``status`` and ``export`` need to find it again.

    A storage elsewhere is not named: its URL may hold a password.
    """
    from evomerge.recipe import write_whole

    document = {
        "study": experiment.name,
        "storage": "study.db" if experiment.spec.storage is None else None,
        "experiment": str(experiment.path.resolve()),
    }
    write_whole(folder / RUN_FILE, json.dumps(document, indent=2) + "\n")


def run_file_kind(folder: Path) -> RunFile:
    """Whether a search wrote the ``run.json`` of ``folder``; an empty or damaged one may be written again
    if there is a study beside it.
    """
    file = folder / RUN_FILE
    if not (file.exists() or file.is_symlink()):
        return RunFile.ABSENT
    if file.is_symlink() or not file.is_file():
        return RunFile.OTHER
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        is_ours = file.stat().st_size == 0 or (folder / "study.db").is_file()
    else:
        is_ours = isinstance(run, dict) and {"study", "experiment"} <= run.keys()
    return RunFile.OURS if is_ours else RunFile.OTHER


def open_study(text: str, storage: str | None) -> OpenedStudy:
    """The study that ``text`` means: a run's folder, its name under runs/, an experiment file, or, with
    ``storage``, also the name of a study.

    Raises:
        StudyError: There is none.
    """
    from evomerge.fitness.objectives import Fitness
    from evomerge.fitness.spec import FitnessSpec
    from evomerge.search.search_section import stored_search
    from evomerge.search.study import Study

    place = _locate(text)
    if storage is not None:
        study = Study.open(storage, text if place is None else place.name)
    else:
        study = Study.open(*_own(text, place))
    document = study.document
    spec = FitnessSpec.model_validate(document["fitness"])
    return OpenedStudy(study, Fitness(spec.tasks), stored_search(document["search"]))


@dataclass(frozen=True)
class _Place:
    """A study's name, and the URL of its storage where that is known."""

    name: str
    storage: str | None


def _locate(text: str) -> _Place | None:
    path = Path(text)
    if path.is_file() and path.suffix in (".yml", ".yaml"):
        from evomerge.search.experiment import Experiment

        experiment = Experiment.load(path)
        return _Place(experiment.name, experiment.storage)
    for folder in (path, Path("runs") / text):
        if (folder / RUN_FILE).is_file():
            run = _read(folder / RUN_FILE)
            # The file may have moved with its folder, wherever it was made.
            own = f"sqlite:///{(folder / 'study.db').absolute()}"
            return _Place(str(run["study"]), None if run.get("storage") is None else own)
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {"study": run["study"], **run}
    except (OSError, ValueError, KeyError, TypeError):
        raise StudyError(str(file), "is damaged", "Run the search again; it goes on.") from None


def _own(text: str, place: _Place | None) -> tuple[str, str]:
    if place is None:
        known = [p.parent.name for p in sorted(Path("runs").glob(f"*/{RUN_FILE}"))]
        raise StudyError(
            text,
            "is no run's folder, no experiment file and no name under runs/",
            did_you_mean(Path(text).name, known) or "Start one with: evomerge search EXPERIMENT.yml",
        )
    if place.storage is None:
        raise StudyError(
            text,
            f"its study {place.name!r} is not in this folder",
            "Name its storage with --storage, as in storage: of the experiment file.",
        )
    return place.storage, place.name


def check_recipe_target(path: Path) -> None:
    """Check that ``export`` may write ``path``: a new file, or one that an export wrote.

    Raises:
        OutputError: It is a folder, a link, or a file of another kind.
    """
    hint = "Name another file with -o, or - for standard output."
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OutputError(str(path), "is a link" if path.is_symlink() else "is not a file", hint)
    if path.exists():
        try:
            head = path.read_bytes()[:64]
        except OSError as exception:
            raise OutputError(str(path), f"cannot be read ({exception.strerror})", hint) from None
        if not head.startswith(b"# evomerge "):
            raise OutputError(str(path), "exists, and no export wrote it", hint)
