"""Whether models can be merged: what they store, its names and shapes. Every offending tensor is listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.checkpoints.quantization import quantization_of
from evomerge.engine.ignored import pattern_for
from evomerge.engine.layers import comes_before_layers
from evomerge.engine.layout import Layout, Operands
from evomerge.engine.model_names import unneeded_names
from evomerge.engine.modules import module_of
from evomerge.engine.plan import Input
from evomerge.errors import CheckpointError

__all__ = [
    "check_modules",
    "check_not_quantized",
    "check_same_tensors",
    "check_shapes",
    "unused_tensors",
]

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
    """Check that the weights of models are not quantized.

    Raises:
        CheckpointError: Some are; each model is named.
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


def check_shapes(
    inputs_of: Iterable[tuple[str, Sequence[Input]]], checkpoints: Mapping[str, Checkpoint]
) -> None:
    """Check that the inputs of each output tensor, all of which exist, are of one shape.

    Raises:
        CheckpointError: Some are not.
    """
    unequal = []
    for name, inputs in inputs_of:
        shapes = {i.model: checkpoints[i.model].tensors[i.tensor].shape for i in inputs}
        if len(set(shapes.values())) > 1:
            each = ", ".join(f"{m} {list(shape)}" for m, shape in shapes.items())
            unequal.append(f"{name}: {each}")
    if unequal:
        embeddings = any(comes_before_layers(t) or "lm_head" in t for t in unequal)
        cure = "Embeddings of unequal size need a tokenizer section (`tokenizer: {source: base}`)."
        hint = cure if embeddings else ""
        raise CheckpointError("models", _listing("tensors differ in shape", unequal), hint)


def check_modules(layout: Layout) -> None:
    """Check that every model has tensors of each module that it is merged into.

    Raises:
        CheckpointError: One has none, as a language model that is merged into an image encoder.
    """
    for module in layout.modules:
        for model in layout.merged_models(module) if module.name else ():
            if not any(
                module_of(name, layout.modules) == module for name in layout.checkpoints[model].tensors
            ):
                raise CheckpointError(
                    model,
                    f"has no tensors of the module {module.name}",
                    "List it only in modules that it has.",
                )


def check_same_tensors(layout: Layout, inputs_of: Mapping[str, Sequence[Input]]) -> None:
    """Check that all models have the tensors of the config source, and no others.

    ``inputs_of`` are the inputs by output tensor. Models that recipes slice may be deeper than the output.

    Raises:
        CheckpointError: A model lacks some, or has others. Tensors that transformers does not load into the
            config source's model can be ignored, which is suggested.
    """
    missing = {
        (i.tensor, i.model): None
        for inputs in inputs_of.values()
        for i in inputs
        if i.tensor not in layout.checkpoints[i.model].tensors
    }
    extra = {
        (name, model): None
        for module in layout.modules
        for model in layout.merged_models(module)
        if module.models is not None
        for name in layout.checkpoints[model].tensors
        if name not in inputs_of
        and module_of(name, layout.modules) in (module, None)
        and not layout.is_left_out(name)
    }
    listings = [
        _listing(what, [f"{name} in {model}" for name, model in found])
        for what, found in (
            ("tensors are missing", missing),
            (f"tensors are not in {layout.config_source}", extra),
        )
        if found
    ]
    if listings:
        hint = _ignore_hint(layout, inputs_of, dict(missing), dict(extra))
        raise CheckpointError("models", "\n".join(listings), hint)


def _ignore_hint(
    layout: Layout,
    outputs: Iterable[str],
    missing: Iterable[tuple[str, str]],
    extra: Iterable[tuple[str, str]],
) -> str:
    """What to do about tensors that only some models have."""
    source = layout.checkpoints[layout.config_source]
    others = dict.fromkeys(name for name, _ in (*missing, *extra))
    unneeded = unneeded_names(source.config, dict.fromkeys((*source.tensors, *others)))
    patterns = pattern_for(
        [name for name in others if name in unneeded],
        [name for name in (*outputs, *others) if name not in others or name not in unneeded],
    )
    hints = [_HINT]
    if any(name not in unneeded for name, _ in extra):
        hints = [f"Is {layout.config_source} complete, and does config.json describe it? {_HINT}"]
    if patterns:
        listed = ", ".join(f'"{pattern}"' for pattern in patterns)
        hints.append(
            f"To merge without tensors that {layout.config_source} does not need, write into the recipe: "
            f"ignore: [{listed}]"
        )
    return " ".join(hints)


def unused_tensors(layout: Layout, operands: Iterable[Operands]) -> dict[str, tuple[str, ...]]:
    """The tensors of each model that are not in the output, as models compute or tie them."""
    used = {input_ for each in operands for input_ in each.inputs}
    found = {
        model: tuple(
            name for name in checkpoint.tensors if Input(model, name) not in used and layout.is_left_out(name)
        )
        for model, checkpoint in layout.checkpoints.items()
    }
    return {model: names for model, names in found.items() if names}


def _listing(what: str, items: Sequence[str]) -> str:
    shown = "".join(f"\n  - {item}" for item in items[:_LISTED])
    more = f"\n  - and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{len(items)} {what}:{shown}{more}"
