"""A recipe and the headers of its models, made into a plan: every output tensor, its inputs and its numbers.

If a plan exists, the merge can run: all that can be wrong with the inputs is found here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evomerge.checkpoints.checkpoint import Checkpoint, TensorInfo, dtype_name
from evomerge.engine.configuration import (
    Origin,
    is_tied,
    layer_count,
    quantization,
    resize,
    resize_module,
)
from evomerge.engine.layers import comes_before_layers, find_stacks
from evomerge.engine.parts import Part, find_parts, part_of
from evomerge.engine.vocabulary import Alignment, Renumbering, TokenizerFolder
from evomerge.errors import CheckpointError, RecipeError, did_you_mean
from evomerge.methods import Base, Parameter, get_method, methods
from evomerge.recipe import Parameters, Recipe, Slice, Source, filters_of, lookup

__all__ = ["Input", "MergePlan", "TensorPlan", "donor_of", "planned"]

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_LISTED = 8


@dataclass(frozen=True)
class Input:
    """One tensor of one model, by the model's reference."""

    model: str
    tensor: str


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor: what it is made of, by which method, with which numbers.

    ``inputs`` are in the order the method sees them, the base first where ``has_base``. ``parameters`` are
    bound: a scalar, or a tuple with one number per model besides the base.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    method: str
    inputs: tuple[Input, ...]
    has_base: bool
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> TensorInfo:
        """Shape and dtype of the output."""
        return TensorInfo(self.shape, self.dtype)


@dataclass(frozen=True)
class MergePlan:
    """All output tensors, what they are read from, the configuration of the output, and its tokenizer.

    ``checkpoints`` are what ``Input.model`` names: the models of the recipe, or views of them. ``donor``
    gives the side files; ``renumber`` says where its token ids have gone, if they have.
    """

    tensors: tuple[TensorPlan, ...]
    config: Mapping[str, Any]
    donor: str
    checkpoints: Mapping[str, Checkpoint]
    tokenizer: TokenizerFolder
    renumber: Renumbering | None = None
    warnings: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the output's weights."""
        return sum(t.info.bytes for t in self.tensors)


def planned(recipe: Recipe, alignment: Alignment) -> MergePlan:
    """The plan of ``recipe`` over checkpoints of one vocabulary; a pure function of headers.

    Raises:
        RecipeError: An unknown method or parameter, a value out of bounds, layers that do not exist.
        CheckpointError: Models that do not fit together; every offending tensor is listed.
    """
    return _Planner(recipe, alignment).plan()


def donor_of(recipe: Recipe) -> str:
    """The model that gives configuration, tokenizer and side files."""
    return recipe.base_model if recipe.base_model is not None else recipe.merged()[0]


@dataclass(frozen=True)
class _Segment:
    """A run of output layers, what they are merged from, and the scopes of their parameters."""

    part: Part
    sources: tuple[Source, ...]
    base: str | None
    scopes: tuple[Parameters, ...]
    first: int
    layers: int


@dataclass(frozen=True)
class _Slot:
    """One output tensor before its numbers are known: its place in a segment and its name in each model."""

    name: str
    segment: _Segment
    position: float
    sources: tuple[Input, ...]
    base: Input | None


class _Planner:
    def __init__(self, recipe: Recipe, alignment: Alignment) -> None:
        self.recipe = recipe
        self.alignment = alignment
        self.checkpoints = checkpoints = alignment.checkpoints
        self.method = get_method(recipe.merge_method)
        self.models = recipe.merged()
        self.donor = donor_of(recipe)
        self.dtype = _dtype(recipe)
        self.parts = find_parts(recipe, checkpoints[self.donor].tensors)
        self.stacks = {m: find_stacks(checkpoints[m].tensors, checkpoints[m].config) for m in self.models}
        self._stacks_of: dict[tuple[str, str], tuple[str, ...]] = {}
        self.warnings: list[str] = list(alignment.warnings)

    def plan(self) -> MergePlan:
        self._check_parameters()
        self._check_quantization()
        segments = {part: self._segments(part) for part in self.parts}
        slots = list(self._slots(segments))
        self._check_inputs(slots)
        self._check_extra(slots)
        self._check_filters(slots)
        tensors = tuple(self._tensor(slot) for slot in slots)
        return MergePlan(
            tensors,
            self._config(segments),
            self.donor,
            self.checkpoints,
            self.alignment.tokenizer,
            self.alignment.renumber,
            tuple(self.warnings),
        )

    # ----------------------------------------------------------------- layers

    def _sliced(self, part: Part, model: str) -> tuple[str, ...]:
        """The stacks of ``model`` that slices of ``part`` speak of: the main ones, or the deepest."""
        key = (part.prefix, model)
        if key not in self._stacks_of:
            stacks = self.stacks[model]
            inside = [p for p in stacks.depths if part_of(p, self.parts) == part]
            deepest = max(inside, key=lambda p: stacks.depths[p], default=None)
            is_main = stacks.main in inside
            self._stacks_of[key] = stacks.sliced if is_main else (deepest,) if deepest is not None else ()
        return self._stacks_of[key]

    def _depth(self, part: Part, model: str) -> int:
        sliced = self._sliced(part, model)
        return self.stacks[model].depths[sliced[0]] if sliced else 0

    def _segments(self, part: Part) -> tuple[_Segment, ...]:
        base, scopes = self.recipe.base_model, (*part.scopes, self.recipe.parameters)
        if part.models is not None:
            depths = {m: self._depth(part, m) for m in self._merged_models(part)}
            if len(set(depths.values())) > 1:
                each = ", ".join(f"{m} has {n}" for m, n in depths.items())
                raise CheckpointError("models", f"the models differ in their number of layers: {each}")
            depth = next(iter(depths.values()))
            return (_Segment(part, part.models, base, scopes, 0, depth),)
        segments: list[_Segment] = []
        for i, slice_ in enumerate(part.slices or ()):
            own_base = slice_.base_model if slice_.base_model is not None else base
            first = segments[-1].first + segments[-1].layers if segments else 0
            layers = self._slice_layers(part, i, slice_)
            segments.append(
                _Segment(part, slice_.sources, own_base, (slice_.parameters, *scopes), first, layers)
            )
        return tuple(segments)

    def _merged_models(self, part: Part) -> tuple[str, ...]:
        """The models whose weights take part; for some methods the base only gives its configuration."""
        listed = [s.model for s in part.models or ()]
        if self.method.base is Base.NONE or self.recipe.base_model is None:
            return tuple(dict.fromkeys(listed))
        return tuple(dict.fromkeys([self.recipe.base_model, *listed]))

    def _slice_layers(self, part: Part, i: int, slice_: Slice) -> int:
        layers = 0
        for source in slice_.sources:
            depth = self._depth(part, source.model)
            first, end = _range(source, depth)
            if end > depth:
                raise RecipeError(
                    f"{part.place}slices[{i}]",
                    f"layer_range [{first}, {end}] goes beyond the {depth} layers of {source.model!r}",
                )
            layers = end - first
        return layers

    # ----------------------------------------------------------------- which tensors

    def _slots(self, segments: Mapping[Part, Sequence[_Segment]]) -> Iterator[_Slot]:
        """Every output tensor; the layers of a sliced stack in their new order, in place of the first."""
        stacks = self.stacks[self.donor]
        done: list[Part] = []
        for name in self.checkpoints[self.donor].tensors:
            place = stacks.place(name)
            part = part_of(name, self.parts)
            if self._is_left_out(name):
                continue
            in_slices = place is not None and part.slices is not None
            if in_slices and place is not None and place.prefix in self._sliced(part, self.donor):
                if part not in done:
                    for segment in segments[part]:
                        yield from self._layer_slots(segment)
                done.append(part)
                continue
            first = place is not None or comes_before_layers(name)
            segment = segments[part][0 if first else -1]
            depth = stacks.depths[place.prefix] if place is not None else 0
            position = 0.0 if place is None else _position(place.index, depth)
            sources = tuple(Input(s.model, name) for s in segment.sources)
            yield _Slot(name, segment, position, sources, Input(segment.base, name) if segment.base else None)

    def _layer_slots(self, segment: _Segment) -> Iterator[_Slot]:
        """The tensors of each layer of one slice: layer k is layer ``start + k`` of each source."""
        lead = segment.sources[0]
        sliced = {m: self._sliced(segment.part, m) for m in self.models}
        for k in range(segment.layers):
            for name in self.checkpoints[lead.model].tensors:
                place = self.stacks[lead.model].place(name)
                if place is None or place.prefix not in sliced[lead.model]:
                    continue
                if place.index != _range(lead, 0)[0] + k:
                    continue
                nth = sliced[lead.model].index(place.prefix)
                sources = tuple(
                    self._layer_input(s.model, sliced[s.model], nth, f"{_range(s, 0)[0] + k}{place.suffix}")
                    for s in segment.sources
                )
                base = None
                if segment.base is not None:
                    at = next((s for s in segment.sources if s.model == segment.base), lead)
                    layer = f"{_range(at, 0)[0] + k}{place.suffix}"
                    base = self._layer_input(segment.base, sliced[segment.base], nth, layer)
                output = f"{sliced[self.donor][nth]}{segment.first + k}{place.suffix}"
                yield _Slot(output, segment, _position(k, segment.layers), sources, base)

    def _layer_input(self, model: str, stacks: Sequence[str], nth: int, layer: str) -> Input:
        if nth >= len(stacks):
            raise CheckpointError(
                "models", f"the layers of {model!r} are not made like those of {self.donor!r}"
            )
        return Input(model, f"{stacks[nth]}{layer}")

    def _is_left_out(self, name: str) -> bool:
        """Buffers that models recompute, and embeddings that some model does not store as it ties them."""
        if name.endswith(_RECOMPUTED):
            return True
        holds = {m: name in self.checkpoints[m].tensors for m in self.models}
        if all(holds.values()):
            return False
        if name.endswith(_NOT_ALWAYS_STORED) or self._is_mask(name):
            return True
        # A model that says that it does not tie them means what it stores: the others lack it.
        means_it = any(held and is_tied(self.checkpoints[m].config) is False for m, held in holds.items())
        stands_outside = self.stacks[self.donor].place(name) is None
        return stands_outside and not means_it and _TIED.search(name) is not None

    def _is_mask(self, name: str) -> bool:
        """A causal mask, which old checkpoints store under the name of a bias."""
        if not name.endswith(("attn.bias", "attention.bias")):
            return False
        return any(
            len(c.tensors[name].shape) == _MASK_DIMENSIONS
            for c in self.checkpoints.values()
            if name in c.tensors
        )

    def _inputs(self, slot: _Slot) -> tuple[tuple[Source, ...], tuple[Input, ...], bool]:
        """Sources that have parameters, and the inputs in the order the method sees them."""
        if self.method.base is Base.NONE:
            return slot.segment.sources, slot.sources, False
        if slot.base is None:
            if self.method.base is Base.REQUIRED:
                raise RecipeError("base_model", f"{self.method.name} needs a base_model")
            return slot.segment.sources, slot.sources, False
        rest = [
            (s, i)
            for s, i in zip(slot.segment.sources, slot.sources, strict=True)
            if s.model != slot.base.model
        ]
        return tuple(s for s, _ in rest), (slot.base, *(i for _, i in rest)), True

    # ----------------------------------------------------------------- one tensor

    def _tensor(self, slot: _Slot) -> TensorPlan:
        info = self._info(slot.sources[0])
        if not info.dtype.is_floating_point:  # buffers of whole numbers are taken over as they are
            copied = {"scale": (1.0,)}
            return TensorPlan(
                slot.name,
                info.shape,
                info.dtype,
                "passthrough",
                slot.sources[:1],
                has_base=False,
                parameters=copied,
            )
        sources, inputs, has_base = self._inputs(slot)
        low, high = self.method.models
        if len(sources) < low or (high is not None and len(sources) > high):
            besides = " besides the base" if has_base else ""
            count = f"exactly {low}" if low == high else f"at least {low}"
            raise RecipeError(
                "models",
                f"{self.method.name} merges {count} model(s){besides}, the recipe has {len(sources)}",
            )
        info = self._info(inputs[0])
        parameters = self._bind(slot, sources)
        dtype = self.dtype if self.dtype is not None else info.dtype
        return TensorPlan(slot.name, info.shape, dtype, self.method.name, inputs, has_base, parameters)

    def _bind(self, slot: _Slot, sources: Sequence[Source]) -> dict[str, Any]:
        bound: dict[str, Any] = {}
        for parameter in self.method.parameters.values():
            scopes = slot.segment.scopes
            if parameter.per_model:
                bound[parameter.name] = tuple(
                    self._value(parameter, slot, (source.parameters, *scopes), f" of {source.model!r}")
                    for source in sources
                )
            else:
                bound[parameter.name] = self._value(parameter, slot, scopes, "")
        try:
            self.method.check(bound)
        except ValueError as exception:
            raise RecipeError("parameters", f"{self.method.name}: {exception} (tensor {slot.name})") from None
        return bound

    def _value(self, parameter: Parameter, slot: _Slot, scopes: Sequence[Parameters], whose: str) -> Any:
        value = lookup(parameter.name, slot.name, slot.position, scopes)
        if value is None:
            if parameter.required:
                raise RecipeError(
                    f"parameters.{parameter.name}",
                    f"{self.method.name} needs a {parameter.name!r}{whose} for tensor {slot.name}",
                )
            return parameter.default[0] if parameter.per_model else parameter.default
        try:
            return parameter.check(value)
        except ValueError as exception:
            raise RecipeError(
                f"parameters.{parameter.name}", f"{parameter.name!r}{whose}: {exception}"
            ) from None

    def _info(self, input_: Input) -> TensorInfo:
        return self.checkpoints[input_.model].tensors[input_.tensor]

    # ----------------------------------------------------------------- checks

    def _check_parameters(self) -> None:
        """Every parameter named anywhere must be one of the method's; one of another method's is reported."""
        known = {p for m in methods() for p in m.parameters}
        for place, parameters in _scopes(self.recipe):
            for name in parameters:
                if name in self.method.parameters:
                    continue
                if name not in known:
                    raise RecipeError(
                        f"{place}.{name}",
                        f"{self.method.name} has no such parameter",
                        did_you_mean(name, self.method.parameters),
                    )
                self.warnings.append(
                    f"{place}.{name} has no effect: {self.method.name} has no such parameter"
                )

    def _check_quantization(self) -> None:
        for model in self.models:
            method = quantization(self.checkpoints[model].config)
            if method is not None:
                raise CheckpointError(
                    model, f"is quantized ({method})", "Merge the models first and quantize the result."
                )

    def _check_inputs(self, slots: Sequence[_Slot]) -> None:
        """Every input must exist, and all inputs of one tensor must have its shape."""
        missing, unequal = [], []
        for slot in slots:
            _, inputs, _ = self._inputs(slot)
            absent = [i for i in inputs if i.tensor not in self.checkpoints[i.model].tensors]
            missing += [f"{i.tensor} in {i.model}" for i in absent]
            if absent:
                continue
            shapes = {i.model: self._info(i).shape for i in inputs}
            if len(set(shapes.values())) > 1:
                each = ", ".join(f"{m} {list(shape)}" for m, shape in shapes.items())
                unequal.append(f"{slot.name}: {each}")
        if missing:
            raise CheckpointError(
                "models", _listing("tensors are missing", missing), "Are these fine-tunes of one model?"
            )
        if unequal:
            embeddings = any(comes_before_layers(t) or "lm_head" in t for t in unequal)
            hint = "Embeddings of unequal size need a tokenizer section." if embeddings else ""
            raise CheckpointError("models", _listing("tensors differ in shape", unequal), hint)

    def _check_extra(self, slots: Sequence[_Slot]) -> None:
        """A model with tensors that the others lack is another architecture; sliced models may be deeper."""
        used = {slot.name for slot in slots}
        extra = [
            f"{name} in {model}"
            for part in self.parts
            for model in self._merged_models(part)
            if part.models is not None
            for name in self.checkpoints[model].tensors
            if name not in used and part_of(name, self.parts) == part and not self._is_left_out(name)
        ]
        if extra:
            raise CheckpointError(
                "models",
                _listing(f"tensors are not in {self.donor}", extra),
                "Are these fine-tunes of one model?",
            )

    def _check_filters(self, slots: Sequence[_Slot]) -> None:
        for place, parameters in _scopes(self.recipe):
            for name, setting in parameters.items():
                for word in filters_of(setting):
                    if not any(word in slot.name for slot in slots):
                        parts = dict.fromkeys(part for slot in slots for part in slot.name.split("."))
                        near = did_you_mean(word, [p for p in parts if not p.isdigit()])
                        self.warnings.append(f"{place}.{name}: the filter {word!r} matches no tensor. {near}")

    # ----------------------------------------------------------------- configuration

    def _config(self, segments: Mapping[Part, Sequence[_Segment]]) -> dict[str, Any]:
        config = copy.deepcopy(self.checkpoints[self.donor].config)
        if self.dtype is not None:
            for section in (config, *(v for v in config.values() if isinstance(v, dict))):
                for key in ("dtype", "torch_dtype"):
                    if key in section:
                        section[key] = dtype_name(self.dtype)
            if "dtype" not in config and "torch_dtype" not in config:
                config["dtype"] = dtype_name(self.dtype)
        for part in self.parts:
            if part.slices is None:
                continue
            old, new = self._depth(part, self.donor), sum(s.layers for s in segments[part])
            if self._sliced(part, self.donor) == self.stacks[self.donor].sliced:
                self._resize(config, segments[part])
            elif old != new and not resize_module(config, old, new):
                raise RecipeError(
                    f"{part.place}slices",
                    f"{new} layers in place of {old}, and config.json does not say where they are counted",
                    "Keep the number of layers of this module.",
                )
        return config

    def _resize(self, config: dict[str, Any], segments: Sequence[_Segment]) -> None:
        """The configuration of the new run of layers: their count, and all that is said layer by layer."""
        stacks = self.stacks[self.donor]
        origins = [
            Origin(self.checkpoints[s.sources[0].model].config, _range(s.sources[0], 0)[0] + k)
            for s in segments
            for k in range(s.layers)
        ]
        resize(config, layer_count(config) or stacks.depth, origins, has_encoder=stacks.has_encoder)


_RECOMPUTED = ("rotary_emb.inv_freq", "masked_bias")
"""Endings of buffers that old checkpoints store and every model computes for itself."""
_NOT_ALWAYS_STORED = ("position_ids",)
"""Endings of buffers that some checkpoints of a model store and others do not."""
_MASK_DIMENSIONS = 4
_TIED = re.compile(r"(embed|shared|wte|word|head|decoder|predictions|proj_out|output)\w*\.(weight|bias)$")
"""Embeddings of input and output, of which one is stored where they are tied."""


def _dtype(recipe: Recipe) -> torch.dtype | None:
    field_ = "out_dtype" if recipe.out_dtype is not None else "dtype"
    name = recipe.out_dtype if recipe.out_dtype is not None else recipe.dtype
    if name is None:
        return None
    if name not in _DTYPES:
        raise RecipeError(field_, f"{name!r} is no dtype of weights", did_you_mean(name, _DTYPES))
    return _DTYPES[name]


def _range(source: Source, depth: int) -> tuple[int, int]:
    return source.layer_range if source.layer_range is not None else (0, depth)


def _position(index: int, layers: int) -> float:
    return index / (layers - 1) if layers > 1 else 1.0


def _scopes(recipe: Recipe) -> Iterator[tuple[str, Parameters]]:
    yield from _scopes_of("", recipe.models, recipe.slices)
    for name, module in (recipe.modules or {}).items():
        yield from _scopes_of(f"modules.{name}.", module.models, module.slices)
        yield f"modules.{name}.parameters", module.parameters
    yield "parameters", recipe.parameters


def _scopes_of(
    place: str, models: Sequence[Source] | None, slices: Sequence[Slice] | None
) -> Iterator[tuple[str, Parameters]]:
    for i, source in enumerate(models or ()):
        yield f"{place}models[{i}].parameters", source.parameters
    for i, slice_ in enumerate(slices or ()):
        for j, source in enumerate(slice_.sources):
            yield f"{place}slices[{i}].sources[{j}].parameters", source.parameters
        yield f"{place}slices[{i}].parameters", slice_.parameters


def _listing(what: str, items: Sequence[str]) -> str:
    shown = "".join(f"\n  - {item}" for item in items[:_LISTED])
    more = f"\n  - and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{len(items)} {what}:{shown}{more}"
