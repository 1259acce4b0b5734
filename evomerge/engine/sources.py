"""The models of a recipe, opened: references to checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from evomerge.checkpoints.files import identity
from evomerge.checkpoints.references import Reference, locate, parse_source
from evomerge.engine.adapters import adapter_alone, with_adapter
from evomerge.engine.inputs import Inputs
from evomerge.engine.stages import staged
from evomerge.errors import RecipeError, UserError
from evomerge.recipe import load_recipe

__all__ = ["identities", "open_sources"]


def open_sources(
    references: Mapping[str, str],
    folders: Sequence[Path] = (Path(),),
    *,
    within: tuple[Path, ...] = (),
) -> dict[str, Checkpoint]:
    """The models that ``references`` stand for, by the names that recipes use; reads headers only.

    Relative paths are looked up below ``folders``, in their order. A reference to a recipe (``other.yml``) is
    the merge that it describes, made when it is read. ``within`` are the recipes that are being opened.

    Raises:
        CheckpointError: A model does not exist, or a file of it is missing or damaged.
        RecipeError: A recipe that is named as a model is wrong, or is made from itself.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for name, text in references.items():
        reference = parse_source(text)
        lora = None
        if reference.lora is not None:
            lora = locate(reference.lora, reference.lora_revision, folders)
        if not reference.model and lora is not None:
            checkpoints[name] = adapter_alone(lora)
            continue
        checkpoint = _opened(reference, folders, within)
        checkpoints[name] = checkpoint if lora is None else with_adapter(checkpoint, lora)
    return checkpoints


def identities(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """What each model holds, as a digest: the folder may move, the weights may not change."""
    return {
        name: "+".join(identity(folder) for folder in checkpoint.folders)
        for name, checkpoint in checkpoints.items()
    }


def _opened(reference: Reference, folders: Sequence[Path], within: tuple[Path, ...]) -> Checkpoint:
    file = reference.recipe_file(folders)
    if file is None:
        return open_checkpoint(locate(reference.model, reference.revision, folders))
    if file in within:
        circle = " -> ".join(str(f) for f in (*within, file))
        raise RecipeError(str(file), f"is made from itself: {circle}")
    recipe = load_recipe(file)
    sources = open_sources(
        {r: r for r in recipe.references()}, (file.parent, *folders), within=(*within, file)
    )
    try:
        stage = staged(Inputs(sources).plan(recipe), file)
        stage.warnings = (*recipe.warnings, *stage.warnings)
        return stage
    except UserError as exception:
        raise exception.within(str(file)) from None
