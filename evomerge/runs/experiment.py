"""The experiment file: the one thing a user writes, and everything a search needs made from it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from evomerge.checkpoints.files import find_file, find_folder, local_path
from evomerge.checkpoints.references import Reference, locate, parse_source
from evomerge.errors import CheckpointError, ExperimentError, UserError, did_you_mean
from evomerge.fitness.objectives import Fitness
from evomerge.fitness.spec import FitnessSpec, TaskSpec
from evomerge.recipe import (
    Document,
    SearchSpace,
    parse,
    read_recipe,
    read_yaml,
    without_extras,
)
from evomerge.runs.recipe_section import searched_space
from evomerge.runs.workers_section import SCORED_BY, WorkersSpec
from evomerge.search.baselines import Baseline, baselines, starts
from evomerge.search.observers import check_observers
from evomerge.search.samplers import SamplerPlan, Vector
from evomerge.search.search_section import SearchSpec, read_search, stored_search

__all__ = [
    "Experiment",
    "ExperimentSpec",
    "OutputSpec",
    "SearchSpec",
    "WorkersSpec",
    "data_folder",
    "fitness_of_document",
    "read_document",
    "read_settings",
]

FREE_FIELDS = ("search.trials", "search.top_k", "models")
"""Fields of the study's document that may change when a search goes on. What the models hold is compared by
``sources``, so that a folder may move."""

AS_IT_WAS: Mapping[str, Any] = {
    "search.lag": 0,
    "search.warm_start": None,
    "fitness.objective": "weighted_mean",
    "fitness.chat": None,
    "fitness.generation": None,
    "fitness.think_end_token": None,
    "fitness.tasks[].chat": None,
    "fitness.tasks[].description": None,
    "fitness.tasks[].gen_prefix": None,
    "fitness.tasks[].repeats": None,
    "fitness.tasks[].generation": None,
    "fitness.tasks[].think_end_token": None,
    "fitness.tasks[].python": None,
    "fitness.tasks[].name": None,
    "fitness.tasks[].measure": "metric",
    "workers.engine": "lm_eval",
    "workers.engine_args": None,
    "workers.quantization": None,
}
"""What a study did that was written before a field existed, by field; for lists, ``tasks[].field``."""

_CMA_ES_SETTINGS = frozenset({"sigma", "restarts"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OutputSpec(_Frozen):
    """The ``output`` section."""

    dir: str | None = Field(
        default=None, description="The run's folder, under the current folder; runs/<name> if not given."
    )


class ExperimentSpec(_Frozen):
    """The experiment file as it is written."""

    name: str | None = Field(
        default=None,
        description="Name of the study and of the run's folder; the file's name if not given.",
    )
    models: dict[str, str] = Field(
        default_factory=dict,
        description="Short names for models: local folders (from the current folder, then from the file's) "
        "or hub ids, with an optional @revision. Recipes use the short names.",
    )
    recipe: dict[str, Any] | None = Field(
        default=None, description="What is searched: a merge recipe with holes. Either this or space."
    )
    space: str | None = Field(
        default=None, description="A file with such a recipe: a path, or a name from search_spaces/."
    )
    fitness: FitnessSpec = Field(description="What makes a model good.")
    search: Annotated[SearchSpec, BeforeValidator(read_search)] = Field(
        default_factory=lambda: stored_search({}), description="How it is searched."
    )
    workers: WorkersSpec = Field(default_factory=WorkersSpec, description="Who does it.")
    storage: str | None = Field(
        default=None,
        description="Where the study lies: sqlite:///file, postgresql+psycopg://..., journal:///file; "
        "study.db in the run's folder if not given.",
    )
    observers: tuple[str, ...] = Field(
        default=(), description="Observers of installed packages that watch the search (loggers, say)."
    )
    output: OutputSpec = Field(default_factory=OutputSpec, description="Where results go.")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        return None if name is None else _plain(name)

    @field_validator("models")
    @classmethod
    def _plain_names(cls, models: dict[str, str]) -> dict[str, str]:
        return {_plain(name): reference for name, reference in models.items()}

    @model_validator(mode="after")
    def _one_space(self) -> Self:
        if (self.recipe is None) == (self.space is None):
            raise ValueError(
                "give exactly one of 'recipe' (a recipe with holes) and 'space' (a file with one)"
            )
        return self


def _plain(name: str) -> str:
    # Names become folders, dimensions and rows of tables.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} is not a plain name; use letters, digits, '.', '_' and '-'")
    return name


@dataclass(frozen=True)
class Experiment:
    """An experiment file, read and checked as far as that goes without opening a model or a task.

    ``space`` speaks of models by the names that the file gives them; ``references`` says what each name
    stands for: an absolute folder, or a hub id with its revision. ``warnings`` say what was ignored.
    """

    path: Path
    spec: ExperimentSpec
    space: SearchSpace
    references: Mapping[str, str]
    fitness: FitnessSpec
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
        """The experiment in the file ``path``; ``overrides`` are dotted fields that win over the file's.

        Raises:
            ExperimentError: A field is wrong; file and field are named.
            RecipeError: The recipe is wrong.
            CheckpointError: A model does not exist.
        """
        given = read_yaml(path, ExperimentError)
        document, warnings = without_extras(given, ExperimentSpec)
        for place, value in (overrides or {}).items():
            _put(document, place, value)
        try:
            spec = parse(ExperimentSpec, document, ExperimentError)
            space = searched_space(_space_document(spec, path, given.carriers), spec.models)
            if not space.dimensions:
                raise ExperimentError("recipe", "has no hole, so there is nothing to search", _HOLE_HINT)
            folders = tuple(dict.fromkeys((Path(), path.parent)))
            references = _references(space, spec.models, folders)
            fitness = fitness_of_document(spec.fitness, path)
            Fitness.of(fitness)
            check_observers(spec.observers)
        except UserError as exception:
            raise exception.within(str(path)) from None
        warnings += tuple(f"recipe: {text}" for text in space.warnings)
        return cls(path, spec, space, references, fitness, warnings)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.spec.name or self.path.stem

    @property
    def folder(self) -> Path:
        """The run's folder, absolute."""
        return Path(self.spec.output.dir or Path("runs") / self.name).absolute()

    @property
    def storage(self) -> str:
        """URL of the storage."""
        return self.spec.storage or f"sqlite:///{self.folder / 'study.db'}"

    @property
    def unused(self) -> tuple[str, ...]:
        """Names in ``models`` that the recipe does not use: a slip, more often than not."""
        return tuple(name for name in self.spec.models if name not in self.references)

    def baselines(self) -> tuple[Baseline, ...]:
        """What a searched merge has to beat."""
        return baselines(self.space)

    def sampler(self, first: Sequence[Vector] = ()) -> SamplerPlan:
        """The sampler with its settings and where the search starts: at ``first``, then its own starts."""
        return SamplerPlan(self.spec.search.settings, tuple(dict.fromkeys((*first, *starts(self.space)))))

    def document(self, sources: Mapping[str, str]) -> dict[str, Any]:
        """Everything that decides what the search finds, for the study to keep and to compare.

        ``sources`` are digests of what each model holds.
        """
        return {
            "models": dict(self.references),
            "sources": dict(sources),
            "recipe": self.space.document,
            "fitness": self.spec.fitness.model_dump(mode="json"),
            "search": self.spec.search.model_dump(mode="json"),
            "workers": {
                **self.spec.workers.model_dump(mode="json", include=SCORED_BY),
                "engine": self.engine,
            },
        }

    @property
    def engine(self) -> str:
        """What runs the models."""
        return self.spec.workers.chosen_engine

    def of_study(self, document: Mapping[str, Any] | None) -> Experiment:
        """The experiment with settings that are not given as in the stored ``document`` of its study."""
        if document is None:
            return self
        begun = read_document(document)
        workers, fitness = self.spec.workers, self.spec.fitness
        if workers.engine is None:
            workers = workers.model_copy(update={"engine": begun["workers"]["engine"]})
        if "batch_size" not in fitness.model_fields_set:
            fitness = fitness.model_copy(update={"batch_size": begun["fitness"]["batch_size"]})
        return replace(self, spec=self.spec.model_copy(update={"workers": workers, "fitness": fitness}))


_HOLE_HINT = "Replace a value by a hole, for instance weight: {float: [0, 1]}."


def data_folder(kind: str) -> Path:
    """The ready-made files of a kind (``search_spaces``, ``fitness``), in the wheel or in the repository."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_data" / kind
    return packaged if packaged.is_dir() else package.parent / kind


def _space_document(spec: ExperimentSpec, path: Path, carriers: frozenset[str]) -> Document:
    if spec.recipe is not None:
        return Document(dict(spec.recipe), carriers=carriers)
    name = str(spec.space)
    folders = (path.parent, Path(), data_folder("search_spaces"))
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.yml"):
            if find_file(candidate):
                return read_recipe(candidate)
    known = sorted(p.stem for p in data_folder("search_spaces").glob("*.yml"))
    raise ExperimentError("space", f"there is no file {name!r}", did_you_mean(Path(name).stem, known))


def _references(space: SearchSpace, models: Mapping[str, str], folders: Sequence[Path]) -> dict[str, str]:
    """What each model of the space stands for; hub ids are not looked up, that takes a network.

    Raises:
        CheckpointError: A folder does not exist.
    """
    found = {}
    for name in space.references():
        text = models.get(name, name)
        try:
            found[name] = _absolute(parse_source(text), folders)
        except CheckpointError as exception:
            where = f"models.{name}" if name in models else "recipe"
            hint = exception.hint if name in models or not models else did_you_mean(name, models)
            raise CheckpointError(where, f"{exception.where}: {exception.reason}", hint) from None
    return found


def _absolute(reference: Reference, folders: Sequence[Path]) -> str:
    """The reference with absolute paths for local folders; hub ids stay, and are looked up when opened."""
    recipe = reference.recipe_file(folders)
    model = str(recipe) if recipe is not None else reference.model
    if model and recipe is None:
        model = _place(model, folders)
    lora = None if reference.lora is None else _place(reference.lora, folders)
    return str(Reference(model, reference.revision, lora, reference.lora_revision))


def _place(model: str, folders: Sequence[Path]) -> str:
    path = local_path(model)
    local = path.is_absolute() or any(find_folder(folder / path) for folder in folders)
    if local or model.startswith((".", "~")) or len(path.parts) > 2:  # no hub id looks like that
        return str(locate(model, None, folders))
    return model


def read_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The stored ``document`` of a study with the fields of today: those it lacks mean "as it was"."""
    found: dict[str, Any] = copy.deepcopy(dict(document))
    for place, value in AS_IT_WAS.items():
        *parents, last = place.split(".")
        for node in _nodes_at(found, parents):
            node.setdefault(last, value)
    search = found.get("search")
    if isinstance(search, dict):  # release 0.1.0 stored the settings of CMA-ES for every sampler
        for name in _CMA_ES_SETTINGS - stored_search(search).model_fields_set:
            search.pop(name, None)
    return found


def read_settings(document: Mapping[str, Any]) -> tuple[FitnessSpec, SearchSpec]:
    """The settings in a stored ``document``, to look at its study; those of a later release are left out."""
    read = read_document(document)
    fitness = {key: value for key, value in read["fitness"].items() if key in FitnessSpec.model_fields}
    return FitnessSpec.model_validate(fitness), stored_search(read["search"])


def _nodes_at(node: Any, parents: Sequence[str]) -> list[dict[str, Any]]:
    """The mappings under the names ``parents``, where ``name[]`` is each entry of a list."""
    if not isinstance(node, dict):
        return []
    if not parents:
        return [node]
    name, rest = parents[0], parents[1:]
    if name.endswith("[]"):
        return [found for entry in node.get(name[:-2]) or () for found in _nodes_at(entry, rest)]
    return _nodes_at(node.get(name), rest)


def fitness_of_document(fitness: FitnessSpec, path: Path) -> FitnessSpec:
    """The fitness section of the file ``path`` with absolute folders of task definitions and Python files.

    Raises:
        ExperimentError: A folder or a file does not exist.
    """
    tasks = tuple(_with_file(task, number, path) for number, task in enumerate(fitness.tasks))
    return fitness.model_copy(update={"include_path": _include_paths(fitness, path), "tasks": tasks})


def _with_file(task: TaskSpec, number: int, path: Path) -> TaskSpec:
    """``task`` with the absolute file of its class: looked up like folders with task definitions."""
    if task.python is None:
        return task
    text, _, name = task.python.rpartition(":")
    files = [folder / local_path(text) for folder in (path.parent, Path(), data_folder("fitness"))]
    file = next((f for f in files if find_file(f)), None)
    if file is None:
        raise ExperimentError(
            f"fitness.tasks[{number}].python", f"there is no file {text!r}", f"Looked in {files[0].parent}."
        )
    return task.model_copy(update={"python": f"{file.resolve()}:{name}"})


def _include_paths(fitness: FitnessSpec, path: Path) -> tuple[str, ...] | None:
    """Folders with task definitions: relative to the file, then to the current folder, then ready-made."""
    given = (fitness.include_path,) if isinstance(fitness.include_path, str) else fitness.include_path
    if given is None:
        return None
    found = []
    for text in given:
        folders = [folder / local_path(text) for folder in (path.parent, Path(), data_folder("fitness"))]
        place = next((f for f in folders if find_folder(f)), None)
        if place is None:
            raise ExperimentError(
                "fitness.include_path", f"there is no folder {text!r}", f"Looked in {folders[0]}."
            )
        found.append(str(place.resolve()))
    return tuple(found)


def _put(document: dict[str, Any], place: str, value: Any) -> None:
    *parents, last = place.split(".")
    for parent in parents:
        below = document.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ExperimentError(parent, "expected a mapping of fields")
        document = below
    document[last] = value
