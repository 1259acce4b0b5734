"""The layout of a merge: which tensors come out, and which layers of which models each is made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.layers import comes_before_layers, find_stacks
from evomerge.engine.modules import OutputModule, find_modules, module_of
from evomerge.engine.optional_tensors import is_left_out
from evomerge.engine.plan import Input
from evomerge.errors import CheckpointError, RecipeError
from evomerge.methods import Base, MergeMethod
from evomerge.recipe import Parameters, Recipe, Slice, Source

__all__ = ["Layout", "Operands", "OutputTensor", "Segment", "config_source_of", "first_layer"]


def config_source_of(recipe: Recipe) -> str:
    """The model that gives configuration, tokenizer, side files and the order of tensors."""
    return recipe.base_model if recipe.base_model is not None else recipe.merged()[0]


def first_layer(source: Source) -> int:
    """Where the layers begin that are taken from ``source``."""
    return source.layer_range[0] if source.layer_range is not None else 0


@dataclass(frozen=True)
class Segment:
    """A run of output layers, what they are merged from, and the scopes of their parameters."""

    module: OutputModule
    sources: tuple[Source, ...]
    base: str | None
    scopes: tuple[Parameters, ...]
    first: int
    layers: int


@dataclass(frozen=True)
class Operands:
    """What a method sees: the inputs, the base first where ``has_base``, and the sources with parameters."""

    sources: tuple[Source, ...]
    inputs: tuple[Input, ...]
    has_base: bool


@dataclass(frozen=True)
class OutputTensor:
    """One output tensor before its parameters are known: its segment and its name in each model.

    ``position`` is that of its layer in the segment, from 0 to 1.
    """

    name: str
    segment: Segment
    position: float
    sources: tuple[Input, ...]
    base: Input | None

    def operands(self, method: MergeMethod) -> Operands:
        """What ``method`` merges into the tensor.

        Raises:
            RecipeError: The method needs a base model, and the recipe has none.
        """
        if method.base is Base.NONE or self.base is None:
            if method.base is Base.REQUIRED:
                raise RecipeError("base_model", f"{method.name} needs a base_model")
            return Operands(self.segment.sources, self.sources, has_base=False)
        rest = [
            (source, input_)
            for source, input_ in zip(self.segment.sources, self.sources, strict=True)
            if source.model != self.base.model
        ]
        return Operands(tuple(s for s, _ in rest), (self.base, *(i for _, i in rest)), has_base=True)


class Layout:
    """What ``recipe`` makes of models whose tensors have the names in ``checkpoints``.

    Raises:
        RecipeError: A module is not in the model, or a tensor is in none of the modules.
    """

    def __init__(self, recipe: Recipe, checkpoints: Mapping[str, Checkpoint], method: MergeMethod) -> None:
        self.config_source = config_source_of(recipe)
        self.checkpoints = {model: checkpoints[model] for model in recipe.merged()}
        self.modules = find_modules(recipe, checkpoints[self.config_source].tensors)
        self.stacks = {m: find_stacks(c.tensors, c.config) for m, c in self.checkpoints.items()}
        self._recipe = recipe
        self._method = method
        self._sliced: dict[tuple[str, str], tuple[str, ...]] = {}

    # ----------------------------------------------------------------- layers

    @cached_property
    def segments(self) -> Mapping[OutputModule, tuple[Segment, ...]]:
        """The runs of layers of each module, in order.

        Raises:
            RecipeError: Layers that do not exist.
            CheckpointError: Models of unequal depth.
        """
        return {
            module: (self._whole(module),) if module.models is not None else self._slices(module)
            for module in self.modules
        }

    def sliced(self, module: OutputModule, model: str) -> tuple[str, ...]:
        """The stacks of ``model`` that slices of ``module`` speak of: the main ones, or the deepest."""
        key = (module.prefix, model)
        if key not in self._sliced:
            stacks = self.stacks[model]
            inside = [p for p in stacks.depths if module_of(p, self.modules) == module]
            deepest = max(inside, key=lambda p: stacks.depths[p], default=None)
            is_main = stacks.main in inside
            self._sliced[key] = stacks.sliced if is_main else (deepest,) if deepest is not None else ()
        return self._sliced[key]

    def depth(self, module: OutputModule, model: str) -> int:
        """The number of layers of ``model`` that slices of ``module`` choose from."""
        sliced = self.sliced(module, model)
        return self.stacks[model].depths[sliced[0]] if sliced else 0

    def merged_models(self, module: OutputModule) -> tuple[str, ...]:
        """The models whose weights are merged in ``module``; for some methods the base only configures it."""
        listed = [s.model for s in self._sources(module)]
        if self._method.base is Base.NONE or self._recipe.base_model is None:
            return tuple(dict.fromkeys(listed))
        return tuple(dict.fromkeys([self._recipe.base_model, *listed]))

    def _sources(self, module: OutputModule) -> tuple[Source, ...]:
        """The models of ``module``; where the method has no base, an unlisted base model is the last one."""
        listed, base = module.models or (), self._recipe.base_model
        takes_it = self._method.base is Base.NONE and self._method.models[1] is None
        if not listed or not takes_it or base is None or any(s.model == base for s in listed):
            return listed
        return (*listed, Source(model=base))

    def _whole(self, module: OutputModule) -> Segment:
        depths = {m: self.depth(module, m) for m in self.merged_models(module)}
        if len(set(depths.values())) > 1:
            each = ", ".join(f"{m} has {n}" for m, n in depths.items())
            raise CheckpointError("models", f"the models differ in their number of layers: {each}")
        scopes = (*module.scopes, self._recipe.parameters)
        depth = next(iter(depths.values()))
        return Segment(module, self._sources(module), self._recipe.base_model, scopes, 0, depth)

    def _slices(self, module: OutputModule) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for i, slice_ in enumerate(module.slices or ()):
            base = slice_.base_model if slice_.base_model is not None else self._recipe.base_model
            scopes = (slice_.parameters, *module.scopes, self._recipe.parameters)
            first = segments[-1].first + segments[-1].layers if segments else 0
            layers = self._slice_layers(module, i, slice_)
            segments.append(Segment(module, slice_.sources, base, scopes, first, layers))
        return tuple(segments)

    def _slice_layers(self, module: OutputModule, i: int, slice_: Slice) -> int:
        layers = 0
        for source in slice_.sources:
            depth = self.depth(module, source.model)
            first, end = source.layer_range if source.layer_range is not None else (0, depth)
            if end > depth:
                raise RecipeError(
                    f"{module.place}slices[{i}]",
                    f"layer_range [{first}, {end}] goes beyond the {depth} layers of {source.model!r}",
                )
            layers = end - first
        return layers

    # ----------------------------------------------------------------- tensors

    def output_tensors(self) -> Iterator[OutputTensor]:
        """Every output tensor; the layers of a sliced stack in their new order, in place of the first."""
        stacks = self.stacks[self.config_source]
        done: list[OutputModule] = []
        for name in self.checkpoints[self.config_source].tensors:
            if self.is_left_out(name):
                continue
            place = stacks.place(name)
            module = module_of(name, self.modules)
            if module is None:
                raise RecipeError("modules", f"{name} is in none of the modules")
            if (
                module.slices is not None
                and place is not None
                and place.prefix in self.sliced(module, self.config_source)
            ):
                if module not in done:
                    for segment in self.segments[module]:
                        yield from self._layer_tensors(segment)
                done.append(module)
                continue
            first = place is not None or comes_before_layers(name)
            segment = self.segments[module][0 if first else -1]
            position = 0.0 if place is None else _position(place.index, stacks.depths[place.prefix])
            sources = tuple(Input(s.model, name) for s in segment.sources)
            yield OutputTensor(
                name, segment, position, sources, Input(segment.base, name) if segment.base else None
            )

    def is_left_out(self, name: str) -> bool:
        """Whether the output leaves out a tensor that some model has."""
        in_layers = self.stacks[self.config_source].place(name) is not None
        module = module_of(name, self.modules)
        models = self.merged_models(module) if module is not None and module.name and module.models else ()
        asked = {model: self.checkpoints[model] for model in models} or self.checkpoints
        return is_left_out(name, asked, in_layers=in_layers)

    def _layer_tensors(self, segment: Segment) -> Iterator[OutputTensor]:
        """The tensors of each layer of one slice: layer k is layer ``start + k`` of each source."""
        lead = segment.sources[0]
        stacks = self.sliced(segment.module, lead.model)
        of_config_source = self.sliced(segment.module, self.config_source)
        places = [self.stacks[lead.model].place(name) for name in self.checkpoints[lead.model].tensors]
        for k in range(segment.layers):
            for place in places:
                if place is None or place.prefix not in stacks or place.index != first_layer(lead) + k:
                    continue
                nth = stacks.index(place.prefix)
                sources = tuple(
                    self._layer_input(segment, s.model, nth, f"{first_layer(s) + k}{place.suffix}")
                    for s in segment.sources
                )
                base = None
                if segment.base is not None:
                    at = next((s for s in segment.sources if s.model == segment.base), lead)
                    layer = f"{first_layer(at) + k}{place.suffix}"
                    base = self._layer_input(segment, segment.base, nth, layer)
                output = f"{of_config_source[nth]}{segment.first + k}{place.suffix}"
                yield OutputTensor(output, segment, _position(k, segment.layers), sources, base)

    def _layer_input(self, segment: Segment, model: str, nth: int, layer: str) -> Input:
        stacks = self.sliced(segment.module, model)
        if nth >= len(stacks):
            raise CheckpointError(
                "models", f"the layers of {model!r} are not made like those of {self.config_source!r}"
            )
        return Input(model, f"{stacks[nth]}{layer}")


def _position(index: int, layers: int) -> float:
    return index / (layers - 1) if layers > 1 else 1.0
