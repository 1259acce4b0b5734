"""Merges to disk: a model folder that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.files import read_json, recode
from evomerge.checkpoints.output_path import Protected, check_target, output_path
from evomerge.checkpoints.writer import CheckpointWriter
from evomerge.engine.compute import ComputePool, merge_tensor
from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.header import check_header
from evomerge.engine.ignored import group_by_number
from evomerge.engine.inputs import Inputs
from evomerge.engine.plan import MergePlan, TensorPlan
from evomerge.engine.recipe_faults import with_faults
from evomerge.engine.statistics import Statistics
from evomerge.errors import CandidateError, CheckpointError, OutputError, UserError
from evomerge.kernels import Digest
from evomerge.recipe import Recipe, dump_recipe
from evomerge.tokenizers.vocabulary import tokenizer_files

__all__ = ["MergeOptions", "MergeResult", "merge_to_disk"]

_SIDE_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor*.json",
)
"""Files of the config source that are copied besides weights, configuration and tokenizer."""


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is carried out; only ``truncate_embeddings`` changes the weights."""

    shard_bytes: int = 5 * 10**9
    overwrite: bool = False
    device: str = "cpu"
    threads: int = 1
    chunk_elements: int | None = None
    expected_fingerprint: str | None = None
    truncate_embeddings: bool = False
    recipe_file: Path | None = None
    """Where the recipe was read: its folder is never replaced."""


@dataclass(frozen=True)
class MergeResult:
    """What was written: the fingerprint of the weights, their size, and warnings."""

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
        OutputError: The folder may not or cannot be written (see ``check_target``), or the weights are not
            those that were scored.
    """
    protected = _protected(checkpoints, options.recipe_file)
    check_target(output_path(path), protected, overwrite=options.overwrite)
    inputs = Inputs(checkpoints, truncate_embeddings=options.truncate_embeddings)
    try:
        merge_plan = inputs.plan(recipe)
    except UserError as exception:
        raise with_faults(exception, recipe) from None
    warning = check_header(merge_plan, is_stack=recipe.models is None)
    warnings = (*merge_plan.warnings, *((warning,) if warning is not None else ()))
    infos = {t.name: t.info for t in merge_plan.tensors}
    with CheckpointWriter(
        path, infos, shard_bytes=options.shard_bytes, overwrite=options.overwrite, protected=protected
    ) as writer:
        written = _write_weights(merge_plan, writer, options)
        expected = options.expected_fingerprint
        if expected is not None and written != expected:
            raise OutputError(
                str(path),
                f"the merged weights have fingerprint {written}, the scored ones had {expected}",
                "A source model, a version of evomerge or torch, or the kind of device has changed since.",
            )
        writer.write_text("config.json", json.dumps(dict(merge_plan.config), indent=2) + "\n")
        writer.write_text(
            "evomerge_recipe.yml", dump_recipe(recipe, comments=[f"evomerge-fingerprint: {written}"])
        )
        writer.write_text("README.md", _card(recipe, checkpoints, merge_plan, written))
        _write_side_files(merge_plan, writer)
        writer.commit()
    return MergeResult(written, len(infos), merge_plan.bytes, warnings)


def _protected(checkpoints: Mapping[str, Checkpoint], recipe_file: Path | None) -> list[Protected]:
    places = [] if recipe_file is None else [Protected(recipe_file.resolve().parent, "the recipe's folder")]
    for name, checkpoint in checkpoints.items():
        for place in dict.fromkeys((checkpoint.path, checkpoint.tokenizer, *checkpoint.folders)):
            if place.is_file():
                places.append(Protected(place.resolve().parent, f"the folder of the recipe {place.name}"))
            else:
                places.append(Protected(place, f"the input model {name!r}", inside=True))
    return places


def _write_weights(
    merge_plan: MergePlan,
    writer: CheckpointWriter,
    options: MergeOptions,
) -> str:
    device = torch.device(options.device)
    checkpoints = merge_plan.checkpoints
    pool = ComputePool(options.threads)

    def read(model: str, name: str) -> Tensor:
        return checkpoints[model].read(name).to(device)

    def fill(tensor: TensorPlan) -> Digest:
        def release(first: int, end: int | None) -> None:
            for part in tensor.inputs:
                checkpoints[part.model].release(part.tensor, first, end)

        # A merge measures each tensor once, so statistics are dropped with their tensor.
        digest = merge_tensor(
            tensor,
            read,
            Statistics(),
            writer.tensor(tensor.name),
            chunk_elements=options.chunk_elements,
            release=release,
        )
        release(0, None)
        return digest

    try:
        return fingerprint(merge_plan.tensors, pool.fill(fill, merge_plan.tensors))
    except CandidateError as exception:
        raise CheckpointError(
            "", f"the merge failed: {exception.reason}", "Check the models and the weights."
        ) from None
    finally:
        pool.close()


def _write_side_files(merge_plan: MergePlan, writer: CheckpointWriter) -> None:
    folder = merge_plan.checkpoints[merge_plan.config_source].path
    found = {file.name: file for pattern in _SIDE_FILES for file in folder.glob(pattern) if file.is_file()}
    for file in (*(found[name] for name in sorted(found)), *tokenizer_files(merge_plan.tokenizer.path)):
        if file.name == "generation_config.json" and merge_plan.renumber is not None:
            generation = merge_plan.renumber.apply(read_json(file))
            writer.write_text(file.name, json.dumps(generation, indent=2) + "\n")
        elif (text := recode(file)) is not None:
            writer.write_text(file.name, text)
        else:
            writer.copy(file)


def _card(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], merge_plan: MergePlan, fingerprint: str
) -> str:
    sources = "\n".join(f"- `{model}`" for model in checkpoints)
    left_out = _left_out("Left out (`ignore`)", merge_plan.left_out.ignored)
    left_out += _left_out(
        "Left out, as transformers does not load them, computes them or finds them in others",
        merge_plan.left_out.unused,
    )
    count = sum(t.info.bytes // t.dtype.itemsize for t in merge_plan.tensors)
    return (
        "---\nlibrary_name: transformers\ntags:\n- merge\n- evomerge\n---\n\n"
        f"# A `{recipe.merge_method}` merge\n\n"
        f"{count / 1e6:.2f} million parameters, merged with evomerge from\n\n{sources}\n\n{left_out}"
        "## Recipe\n\n```yaml\n" + dump_recipe(recipe) + "```\n\n"
        f"Fingerprint of the weights: `{fingerprint}`\n\n"
        "## Again\n\n```bash\nevomerge merge evomerge_recipe.yml OUT_DIR\n```\n"
    )


def _left_out(heading: str, models: Mapping[str, Sequence[str]]) -> str:
    """A list of tensors by model, those of all layers as one pattern; empty where there are none."""
    if not models:
        return ""
    lines = [f"- `{model}`: {', '.join(group_by_number(names))}\n" for model, names in models.items()]
    return f"{heading}:\n\n{''.join(lines)}\n"
