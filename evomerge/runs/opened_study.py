"""Finding a study by the name, folder or file that a person gives, and reading its experiment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from evomerge.errors import StudyError, did_you_mean
from evomerge.fitness.objectives import Fitness
from evomerge.fitness.scores import Split
from evomerge.recipe import Recipe, SearchSpace
from evomerge.runs.experiment import Experiment, SearchSpec, read_settings
from evomerge.runs.frame import trials_frame
from evomerge.runs.run_folder import RUN_FILE
from evomerge.search.agreement import Agreement, agreement
from evomerge.search.baselines import baselines
from evomerge.search.leaderboard import Row, leaderboard
from evomerge.search.ranking import finalists, fitness_of, winner
from evomerge.search.verdict import Verdict, verdict
from evomerge.study.study import Study, Trial

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OpenedStudy", "open_study"]


@dataclass(frozen=True)
class OpenedStudy:
    """A study with its experiment: how its trials are scored, and how their recipes are written."""

    study: Study
    fitness: Fitness
    search: SearchSpec

    @classmethod
    def of(cls, study: Study) -> Self:
        """``study`` with the experiment of its document; closing it closes the study."""
        fitness, search = read_settings(study.document)
        return cls(study, Fitness.of(fitness), search)

    @property
    def top_k(self) -> int:
        """How many candidates are compared on validation items."""
        return self.search.top_k

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return SearchSpace(self.study.document["recipe"])

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.name

    def leaderboard(self) -> tuple[Row, ...]:
        """Baselines in their order, then the finalists, the winner first."""
        return leaderboard(self.study, self.fitness, self.top_k)

    def winner(self) -> Trial | None:
        """The finalist with the best validation score; ``None`` before one is validated."""
        return winner(self.study, self.fitness, self.top_k)

    def verdict(self) -> Verdict | None:
        """What the search has shown; ``None`` before its winner has been scored on test items."""
        return verdict(self.study, self.fitness, baselines(self.space), self.top_k)

    def unvalidated(self) -> tuple[int, int]:
        """Finalists without a result on validation items, and finalists."""
        best = finalists(self.study, self.top_k)
        done = self.study.split_results(Split.VALIDATION)
        return sum(1 for t in best if t.number not in done), len(best)

    def agreement(self) -> Agreement | None:
        """Whether the search's measure ranks models as their metrics do; ``None`` where it is the metric."""
        return agreement(self.study, self.fitness)

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a trial, with folders and hub ids in place of short names."""
        space = self.space
        if trial.kind == "candidate":
            recipe = space.fill(dict(trial.parameters))
        else:
            recipe = next(b.recipe for b in baselines(space) if b.name == trial.name)
        return recipe.with_references(self.study.document["models"])

    def score(self, trial: Trial, split: Split) -> float | None:
        """The fitness of ``trial`` on ``split``, higher is better; ``None`` where it was not scored."""
        if split is Split.SEARCH:
            return trial.score
        return fitness_of(self.study.split_scores(split).get(trial.number), self.fitness)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per trial in the order of their numbers, a column per searched value and task.

        Columns ``param/NAME`` hold the filled values (empty for baselines), ``task/NAME`` the task's own
        metric on search items; ``search``, ``validation`` and ``test`` the fitness, higher is better.
        Where the search is by another measure, ``search_metric`` is the fitness by the metrics on search
        items, of the models that were scored by both.
        """
        return trials_frame(self.study, self.fitness)

    def close(self) -> None:
        """Release the connection to the storage; may be called twice."""
        self.study.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_study(text: str, storage: str | None = None) -> OpenedStudy:
    """The study that ``text`` means: a run's folder, its name under runs/, an experiment file, or, with
    ``storage``, also the name of a study.

    Raises:
        StudyError: There is none.
    """
    place = _locate(text)
    if storage is not None:
        study = Study.open(storage, text if place is None else place.name)
    else:
        study = Study.open(*_own(text, place))
    return OpenedStudy.of(study)


@dataclass(frozen=True)
class _Place:
    """A study's name, and the URL of its storage where that is known."""

    name: str
    storage: str | None


def _locate(text: str) -> _Place | None:
    path = Path(text)
    if path.is_file() and path.suffix in (".yml", ".yaml"):
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
            "is not a run's folder, an experiment file or a name under runs/",
            did_you_mean(Path(text).name, known) or "Start one with: evomerge search EXPERIMENT.yml",
        )
    if place.storage is None:
        raise StudyError(
            text,
            f"its study {place.name!r} is not in this folder",
            "Name its storage with --storage, as in storage: of the experiment file.",
        )
    return place.storage, place.name
