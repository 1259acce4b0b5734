"""Whether models fit together: what they store, its names and shapes. Every offending tensor is listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.quantization import quantization_of
from evomerge.engine.ignored import pattern_for
from evomerge.engine.layers import comes_before_layers
from evomerge.engine.layout import Layout
from evomerge.engine.modules import part_of
from evomerge.engine.plan import Input
from evomerge.errors import CheckpointError

__all__ = ["check_extra", "check_inputs", "check_modules", "check_not_quantized"]

_LISTED = 8
_QUANTIZED = (
    "Merge the models as they were before, and quantize the result. Where there are only quantized weights, "
    "write them as bfloat16 first (transformers: model.dequantize(), then save_pretrained)."
)
_MARKED = (
    "Merge the models as they were before, and quantize the result. If the weights are not quantized, as "
    "their dtypes look, delete quantization_config in config.json."
)
_HINT = "Are these fine-tunes of one model?"


def check_not_quantized(checkpoints: Mapping[str, Checkpoint]) -> None:
    """Checks that the weights of models are numbers, not codes.

    Raises:
        CheckpointError: Those of some models are quantized; each is named.
    """
    found = {model: q for model, c in checkpoints.items() if (q := quantization_of(c)) is not None}
    if not found:
        return
    texts = {m: f"is quantized ({q.method}){f': {q.sign}' if q.sign else ''}" for m, q in found.items()}
    hint = _QUANTIZED if any(q.sign for q in found.values()) else _MARKED
    if len(texts) == 1:
        ((model, text),) = texts.items()
        raise CheckpointError(model, text, hint)
    listing = _listing("models cannot be merged", [f"{model} {text}" for model, text in texts.items()])
    raise CheckpointError("models", listing, hint)


def check_inputs(
    inputs_of: Iterable[tuple[str, Sequence[Input]]], checkpoints: Mapping[str, Checkpoint]
) -> None:
    """Checks that all inputs of each output tensor exist and are of one shape.

    Raises:
        CheckpointError: Some are not.
    """
    missing, unequal = [], []
    for name, inputs in inputs_of:
        absent = [i for i in inputs if i.tensor not in checkpoints[i.model].tensors]
        missing += [f"{i.tensor} in {i.model}" for i in absent]
        if absent:
            continue
        shapes = {i.model: checkpoints[i.model].tensors[i.tensor].shape for i in inputs}
        if len(set(shapes.values())) > 1:
            each = ", ".join(f"{m} {list(shape)}" for m, shape in shapes.items())
            unequal.append(f"{name}: {each}")
    if missing:
        raise CheckpointError("models", _listing("tensors are missing", missing), _HINT)
    if unequal:
        embeddings = any(comes_before_layers(t) or "lm_head" in t for t in unequal)
        cure = "Embeddings of unequal size need a tokenizer section (`tokenizer: {source: base}`)."
        hint = cure if embeddings else ""
        raise CheckpointError("models", _listing("tensors differ in shape", unequal), hint)


def check_modules(layout: Layout) -> None:
    """Checks that every model has something of each of the modules that it is merged into.

    Raises:
        CheckpointError: One has not, as a language model that is merged into an image encoder.
    """
    for part in layout.parts:
        for model in layout.merged_models(part) if part.name else ():
            if not any(part_of(name, layout.parts) == part for name in layout.checkpoints[model].tensors):
                raise CheckpointError(
                    model,
                    f"has no tensors of the module {part.name}",
                    "List it only in modules that it has.",
                )


def check_extra(layout: Layout, outputs: Iterable[str]) -> None:
    """Checks that no model has tensors that the others lack: it would be another architecture.

    Models that recipes slice may be deeper than the output.

    Raises:
        CheckpointError: One has.
    """
    used = set(outputs)
    extra = [
        (name, model)
        for part in layout.parts
        for model in layout.merged_models(part)
        if part.models is not None
        for name in layout.checkpoints[model].tensors
        if name not in used and part_of(name, layout.parts) in (part, None) and not layout.is_left_out(name)
    ]
    if extra:
        patterns = ", ".join(f'"{p}"' for p in pattern_for((name for name, _ in extra), used))
        raise CheckpointError(
            "models",
            _listing(
                f"tensors are not in {layout.config_source}", [f"{name} in {model}" for name, model in extra]
            ),
            f"{_HINT} To merge without these tensors, write into the recipe: ignore: [{patterns}]",
        )


def _listing(what: str, items: Sequence[str]) -> str:
    shown = "".join(f"\n  - {item}" for item in items[:_LISTED])
    more = f"\n  - and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{len(items)} {what}:{shown}{more}"
