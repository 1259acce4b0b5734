"""The same plan, to disk: a model folder that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.writer import CheckpointWriter
from evomerge.engine.compute import CHUNK_ELEMENTS, ComputePool, merge_tensor
from evomerge.engine.fingerprint import combined_fingerprint
from evomerge.engine.live_model import check_loads
from evomerge.engine.plan import MergePlan, TensorPlan, plan
from evomerge.engine.statistics import Statistics
from evomerge.errors import CandidateError, CheckpointError, OutputError
from evomerge.recipe import Recipe, dump_recipe

__all__ = ["MergeOptions", "MergeResult", "merge_to_disk"]

from dataclasses import dataclass

_SIDE_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "sentencepiece*",
    "spiece.model",
    "generation_config.json",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor*.json",
)
"""What of the donor's folder belongs to the model besides weights and configuration."""


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is carried out; none of it changes a bit of the weights."""

    shard_bytes: int = 5 * 10**9
    overwrite: bool = False
    device: str = "cpu"
    threads: int = 1
    chunk_elements: int = CHUNK_ELEMENTS
    expected_fingerprint: str | None = None


@dataclass(frozen=True)
class MergeResult:
    """What was written: the fingerprint of the weights, their size, and what is worth a warning."""

    fingerprint: str
    tensors: int
    bytes: int
    warnings: tuple[str, ...]


@torch.no_grad()
def merge_to_disk(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    path: Path,
    options: MergeOptions = MergeOptions(),
) -> MergeResult:
    """Merges ``recipe`` into the model folder ``path``, which appears whole or not at all.

    Raises:
        RecipeError, CheckpointError: The recipe or a model is wrong.
        OutputError: The folder cannot be written, or the weights are not those that were scored.
    """
    merge_plan = plan(recipe, checkpoints)
    warnings = merge_plan.warnings
    if recipe.models is None:  # another configuration than the models had: not every one can be told
        warning = check_loads(merge_plan, checkpoints[merge_plan.donor])
        warnings = (*warnings, warning) if warning is not None else warnings
    infos = {t.name: t.info for t in merge_plan.tensors}
    with CheckpointWriter(
        path, infos, shard_bytes=options.shard_bytes, overwrite=options.overwrite
    ) as writer:
        fingerprint = _write_weights(merge_plan, checkpoints, writer, options)
        expected = options.expected_fingerprint
        if expected is not None and fingerprint != expected:
            raise OutputError(
                str(path),
                f"the merged weights have fingerprint {fingerprint}, the scored ones had {expected}",
                "A source model, a version of evomerge or torch, or the kind of device has changed since.",
            )
        writer.write_text("config.json", json.dumps(dict(merge_plan.config), indent=2) + "\n")
        writer.write_text(
            "evomerge_recipe.yml", dump_recipe(recipe, comments=[f"evomerge-fingerprint: {fingerprint}"])
        )
        writer.write_text("README.md", _card(recipe, checkpoints, merge_plan, fingerprint))
        for file in _side_files(checkpoints[merge_plan.donor].path):
            writer.copy(file)
        writer.commit()
    return MergeResult(fingerprint, len(infos), merge_plan.bytes, warnings)


def _write_weights(
    merge_plan: MergePlan,
    checkpoints: Mapping[str, Checkpoint],
    writer: CheckpointWriter,
    options: MergeOptions,
) -> str:
    device = torch.device(options.device)
    pool = ComputePool(options.threads)

    def read(model: str, name: str) -> Tensor:
        return checkpoints[model].read(name).to(device)

    def fill(tensor: TensorPlan) -> str:
        place = writer.tensor(tensor.name)
        place_RC = place.view(1, -1) if place.dim() < 2 else place.view(-1, place.shape[-1])

        def write(row: int, rows_RC: Tensor) -> None:
            place_RC[row : row + rows_RC.shape[0]].copy_(rows_RC)

        # Statistics serve one tensor here and are dropped with it: a merge measures each tensor once.
        digest = merge_tensor(tensor, read, Statistics(), write, chunk_elements=options.chunk_elements)
        for part in tensor.inputs:
            checkpoints[part.model].let_go(part.tensor)
        writer.let_go(tensor.name)
        return digest

    try:
        digests = pool.map(fill, merge_plan.tensors)
    except CandidateError as exception:
        raise CheckpointError(
            "", f"the merge failed: {exception.reason}", "Check the models and the weights."
        ) from None
    finally:
        pool.close()
    names = [t.name for t in merge_plan.tensors]
    return combined_fingerprint(merge_plan.tensors, dict(zip(names, digests, strict=True)))


def _side_files(folder: Path) -> Sequence[Path]:
    found = {file.name: file for pattern in _SIDE_FILES for file in folder.glob(pattern) if file.is_file()}
    return [found[name] for name in sorted(found)]


def _card(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], merge_plan: MergePlan, fingerprint: str
) -> str:
    sources = "\n".join(f"- `{model}`" for model in checkpoints)
    count = sum(t.info.bytes // t.dtype.itemsize for t in merge_plan.tensors)
    return (
        "---\nlibrary_name: transformers\ntags:\n- merge\n- evomerge\n---\n\n"
        f"# A `{recipe.merge_method}` merge\n\n"
        f"{count / 1e6:.2f} million parameters, merged with evomerge from\n\n{sources}\n\n"
        "## Recipe\n\n```yaml\n" + dump_recipe(recipe) + "```\n\n"
        f"Fingerprint of the weights: `{fingerprint}`\n\n"
        "## Again\n\n```bash\nevomerge merge evomerge_recipe.yml OUT_DIR\n```\n"
    )
