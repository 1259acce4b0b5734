"""The models of a recipe, opened: references to checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from evomerge.checkpoints.files import identity
from evomerge.checkpoints.lora import adapted
from evomerge.checkpoints.references import locate, parse_reference

__all__ = ["identities", "open_sources"]


def open_sources(references: Mapping[str, str], folders: Sequence[Path] = (Path(),)) -> dict[str, Checkpoint]:
    """The models that ``references`` stand for, by the names that recipes use; reads headers only.

    Relative paths are looked up below ``folders``, in their order.

    Raises:
        CheckpointError: A model does not exist, or a file of it is missing or damaged.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for name, text in references.items():
        reference = parse_reference(text)
        checkpoint = open_checkpoint(locate(reference.model, reference.revision, folders))
        if reference.lora is not None:
            checkpoint = adapted(checkpoint, locate(reference.lora, reference.lora_revision, folders))
        checkpoints[name] = checkpoint
    return checkpoints


def identities(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """What each model holds, as a digest: the folder may move, the weights may not change."""
    return {
        name: "+".join(identity(folder) for folder in checkpoint.folders)
        for name, checkpoint in checkpoints.items()
    }
