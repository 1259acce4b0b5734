"""Opens the models of a recipe: from references to checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.files import find_file, identity, read_json
from evomerge.checkpoints.hub import open_model
from evomerge.checkpoints.quantization import quantization_in_config, unused_quantization_file
from evomerge.checkpoints.references import Reference, locate, parse_source, settings_folder
from evomerge.engine.adapters import adapter_alone, with_adapter
from evomerge.engine.compatibility import check_not_quantized
from evomerge.engine.inputs import Inputs
from evomerge.engine.recipe_faults import load_whole, with_faults
from evomerge.engine.stages import stage_checkpoint
from evomerge.errors import CheckpointError, RecipeError, UserError, together

__all__ = ["identities", "open_sources"]


def open_sources(
    references: Mapping[str, str],
    folders: Sequence[Path] = (Path(),),
    *,
    within: tuple[Path, ...] = (),
) -> dict[str, Checkpoint]:
    """The models that ``references`` stand for, by the names that recipes use; reads headers only.

    Relative paths are looked up below ``folders``, in their order. A reference to a recipe (``other.yml``) is
    the merge that it describes, computed when it is read. ``within`` are the recipes that are being opened.

    Raises:
        CheckpointError: A model does not exist, is quantized, or a file of it is missing or damaged; the
        faults
            of all models are reported at once.
        RecipeError: A recipe that is named as a model is wrong, or depends on itself.
    """
    errors, remote = _check_settings(references, folders)
    # After an error nothing more is downloaded: only local models are checked.
    skipped = remote if errors else []
    checkpoints: dict[str, Checkpoint] = {}
    adapters: dict[str, Path] = {}
    for name, text in references.items():
        try:
            reference = parse_source(text)
            if (reference.model, reference.revision) in skipped:
                continue
            if reference.lora is not None and (reference.lora, reference.lora_revision) not in skipped:
                adapters[name] = locate(reference.lora, reference.lora_revision, folders)
            if reference.model:
                checkpoints[name] = _open_source(reference, folders, within)
        except UserError as exception:
            errors.append(exception)
    try:
        check_not_quantized(checkpoints)  # before an adapter is found not to fit the codes
    except UserError as exception:
        errors.append(exception)
    _raise_all(errors)
    for name, folder in adapters.items():
        base = checkpoints.get(name)
        try:
            checkpoints[name] = adapter_alone(folder) if base is None else with_adapter(base, folder)
        except UserError as exception:
            errors.append(exception)
    _raise_all(errors)
    return {name: checkpoints[name] for name in references}


def _check_settings(
    references: Mapping[str, str], folders: Sequence[Path]
) -> tuple[list[UserError], list[tuple[str, str | None]]]:
    """Check the configurations of hub models, before any weights are downloaded.

    Returns the errors, and the hub models with their revisions.
    """
    errors: list[UserError] = []
    remote: list[tuple[str, str | None]] = []
    wanted: dict[tuple[str, str | None, str], None] = {}
    for text in references.values():
        reference = parse_source(text)
        if reference.model and reference.recipe_file(folders) is None:
            wanted[reference.model, reference.revision, "config.json"] = None
        if reference.lora is not None:
            wanted[reference.lora, reference.lora_revision, "adapter_config.json"] = None
    for model, revision, name in wanted:
        try:
            folder = settings_folder(model, revision, folders)
            if folder is not None:
                remote.append((model, revision))
                _check_file(model, folder / name)
        except UserError as exception:
            errors.append(exception)
            remote.append((model, revision))  # it is not opened
    return errors, remote


def _check_file(model: str, file: Path) -> None:
    if not find_file(file):
        raise CheckpointError(model, f"the repository has no {file.name}", "Is it a model of transformers?")
    method = quantization_in_config(read_json(file)) if file.name == "config.json" else None
    if method is not None:
        raise CheckpointError(
            model,
            f"is quantized ({method})",
            "Merge the models as they were before, and quantize the result.",
        )


def _raise_all(errors: Sequence[UserError]) -> None:
    if errors:
        raise together(errors, "models cannot be read")


def identities(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """A digest of the contents of each model: the folder may move, the weights may not change."""
    for checkpoint in checkpoints.values():
        checkpoint.fetch()
    return {
        name: "+".join(identity(folder) for folder in checkpoint.folders)
        for name, checkpoint in checkpoints.items()
    }


def _open_source(reference: Reference, folders: Sequence[Path], within: tuple[Path, ...]) -> Checkpoint:
    file = reference.recipe_file(folders)
    if file is None:
        checkpoint = open_model(reference.model, reference.revision, folders)
        unused = unused_quantization_file(checkpoint)
        if unused is not None:
            text = f"has {unused}, but its weights are not quantized: they are merged"
            checkpoint.warnings = (*checkpoint.warnings, text)
        return checkpoint
    if file in within:
        circle = " -> ".join(str(f) for f in (*within, file))
        raise RecipeError(str(file), f"depends on itself: {circle}")
    recipe = load_whole(file)
    sources = open_sources(
        {r: r for r in recipe.references()}, (file.parent, *folders), within=(*within, file)
    )
    try:
        stage = stage_checkpoint(Inputs(sources).plan(recipe), file)
        stage.warnings = (*recipe.warnings, *stage.warnings)
        return stage
    except UserError as exception:
        raise with_faults(exception, recipe).within(str(file)) from None
