"""evomerge merge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli._console import console, print_json, warn
from evomerge.cli._signals import stoppable
from evomerge.errors import RecipeError, UserError, did_you_mean

__all__ = ["command"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SMALLEST = 10**6
"""Sizes in bytes. In MergeKit's option 5B means five billion parameters; here it is refused as five bytes."""
_FINGERPRINT = re.compile(r"^# evomerge-fingerprint: ([0-9a-f]{32})\s*$", re.MULTILINE)


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe (YAML); recipes for MergeKit work.")],
    out_dir: Annotated[Path, typer.Argument(help="The model folder to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="Dtype of the output: float32, bfloat16 or float16; the recipe's if not given."),
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Largest size of one weights file, such as 5GB.")] = "5GB",
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1 ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores if not given.")] = None,
    truncate_embeddings: Annotated[
        bool, typer.Option(help="Cut embeddings of unequal size to the rows that all models have.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an earlier merge; never a file that no merge wrote.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge models on disk. OUT_DIR appears whole or not at all."""
    import os

    shard_bytes = _bytes(shard_size)
    from evomerge.engine.recipe_faults import load_whole, with_faults

    loaded = load_whole(recipe)
    expected = _FINGERPRINT.search(recipe.read_text(encoding="utf-8"))
    if dtype is not None:
        loaded = loaded.model_copy(update={"out_dtype": dtype})
        expected = None  # another dtype, other bytes
    from evomerge.engine.device import resolve_device
    from evomerge.engine.export import MergeOptions, merge_to_disk
    from evomerge.engine.sources import open_sources

    try:
        checkpoints = open_sources({r: r for r in loaded.references()}, (Path(), recipe.parent))
    except UserError as exception:
        raise with_faults(exception, loaded) from None
    options = MergeOptions(
        shard_bytes=shard_bytes,
        overwrite=overwrite,
        device=resolve_device(device),
        threads=threads or os.cpu_count() or 1,
        truncate_embeddings=truncate_embeddings,
        expected_fingerprint=expected.group(1) if expected else None,
        recipe_file=recipe,
    )
    with stoppable("Stopped; no half-written model is left."):
        result = merge_to_disk(loaded, checkpoints, out_dir, options)
    for warning in result.warnings:
        warn(warning)
    if json_:
        print_json(
            {
                "path": str(out_dir),
                "fingerprint": result.fingerprint,
                "verified": expected is not None,
                "tensors": result.tensors,
                "bytes": result.bytes,
                "warnings": list(result.warnings),
            }
        )
        return
    verified = "; these are the weights that were scored" if expected else ""
    console.print(
        f"Wrote {out_dir}: {result.tensors} tensors, {result.bytes / 2**20:.1f} MiB, "
        f"fingerprint {result.fingerprint}{verified}",
    )


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match.group(2).upper() not in _UNITS or not 0 < float(match.group(1)) < 1e30:
        hint = (
            did_you_mean(match.group(2).upper(), _UNITS)
            if match and match.group(2)
            else "Write 5GB or 500MB."
        )
        raise RecipeError("--shard-size", f"{text!r} is not a size", hint)
    size = int(float(match.group(1)) * _UNITS[match.group(2).upper()])
    if size < _SMALLEST:
        number = match.group(1)
        hint = f"Did you mean {number}GB?" if match.group(2).upper() in ("", "B") else "Write 5GB or 500MB."
        raise RecipeError("--shard-size", f"{text!r} is {size} bytes; it must be at least 1MB", hint)
    return size
