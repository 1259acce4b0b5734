"""The models of a recipe, opened: references to checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from evomerge.checkpoints import Checkpoint, locate, open_checkpoint, parse_reference
from evomerge.errors import CheckpointError

__all__ = ["open_sources"]


def open_sources(references: Iterable[str], folders: Sequence[Path] = (Path(),)) -> dict[str, Checkpoint]:
    """Every model of ``references``, by reference; reads headers only.

    Relative paths are looked up below ``folders``, in their order.

    Raises:
        CheckpointError: A model does not exist, or a file of it is missing or damaged.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for text in references:
        if text in checkpoints:
            continue
        reference = parse_reference(text)
        if reference.lora is not None:
            raise CheckpointError(text, "LoRA adapters are not supported yet")
        checkpoints[text] = open_checkpoint(locate(reference.model, reference.revision, folders))
    return checkpoints
