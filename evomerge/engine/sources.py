"""The models of a recipe, opened: references to checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from evomerge.checkpoints.files import identity
from evomerge.checkpoints.references import locate, parse_reference
from evomerge.errors import CheckpointError

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
        if reference.lora is not None:
            raise CheckpointError(text, "LoRA adapters are not supported yet")
        checkpoints[name] = open_checkpoint(locate(reference.model, reference.revision, folders))
    return checkpoints


def identities(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """What each model holds, as a digest: the folder may move, the weights may not change."""
    return {name: identity(checkpoint.path) for name, checkpoint in checkpoints.items()}
