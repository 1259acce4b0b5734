"""A merge recipe: what to merge, in the MergeKit dialect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    model_validator,
)

from evomerge.recipe.values import check_setting

__all__ = ["Module", "Recipe", "Slice", "Source", "TokenRule", "TokenSource", "TokenizerSpec", "stage_of"]


def stage_of(reference: str, stages: Iterable[str | None]) -> str | None:
    """The one of ``stages`` that ``reference`` is, or adapts (``stage+adapter``)."""
    named = list(stages)
    if reference in named:
        return reference
    stage, plus, adapter = reference.partition("+")
    return stage if plus and adapter and stage in named else None


Settings = dict[str, Annotated[Any, AfterValidator(check_setting)]]


def _reference(value: Any) -> Any:
    """The long form of a model reference, ``{model: {path, revision}, lora: {path, revision}}``, as text."""
    if not isinstance(value, Mapping):
        return value
    parts = []
    for part in (value.get("model", value), value.get("lora")):
        if isinstance(part, Mapping):
            path, revision = part.get("path"), part.get("revision")
            part = f"{path}@{revision}" if revision else path  # noqa: PLW2901
        if part is not None:
            parts.append(part)
    known = {"model", "lora", "override_architecture"} if "model" in value else {"path", "revision"}
    if set(value) - known or not parts or not all(isinstance(p, str) for p in parts):
        raise ValueError("a model reference is a text, or {model: {path, revision}, lora: {path, revision}}")
    return "+".join(parts)


ModelReference = Annotated[str, BeforeValidator(_reference)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """One input model of a slice (or of the whole merge), with its own parameters."""

    model: ModelReference
    layer_range: tuple[StrictInt, StrictInt] | None = None
    parameters: Settings = Field(default_factory=dict)


class Slice(_Frozen):
    """A run of layers of the output, merged from equally long runs of layers of the sources."""

    sources: tuple[Source, ...] = Field(min_length=1)
    base_model: ModelReference | None = None
    parameters: Settings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        lengths = {}
        for source in self.sources:
            if source.layer_range is None:
                raise ValueError(f"source {source.model!r} needs a layer_range [first, end)")
            first, end = source.layer_range
            if first < 0 or end <= first:
                raise ValueError(
                    f"source {source.model!r} has layer_range [{first}, {end}], which is empty or negative"
                )
            lengths[source.model] = end - first
        if len(set(lengths.values())) > 1:
            each = ", ".join(f"{model}: {n}" for model, n in lengths.items())
            raise ValueError(f"the sources of one slice need equally many layers, got {each}")
        return self


class Module(_Frozen):
    """One module of a model with several (``text_decoder``, ``vision_tower``), merged by its own slices."""

    slices: tuple[Slice, ...] | None = Field(default=None, min_length=1)
    models: tuple[Source, ...] | None = Field(default=None, min_length=1)
    parameters: Settings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.slices is None) == (self.models is None):
            raise ValueError("a module has exactly one of 'models' and 'slices'")
        return self


class TokenSource(_Frozen):
    """Where the embedding of a token comes from: a token of some model, or zeros."""

    kind: Literal["model_token", "zero"]
    model: ModelReference | None = None
    token: str | None = None
    token_id: Annotated[StrictInt, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _fields(self) -> Self:
        if self.kind == "zero":
            if self.model is not None or self.token is not None or self.token_id is not None:
                raise ValueError("a token source of kind 'zero' has no other fields")
        elif self.model is None or (self.token is None) == (self.token_id is None):
            raise ValueError(
                "a token source of kind 'model_token' has a 'model', and one of 'token' and 'token_id'"
            )
        return self


class TokenRule(_Frozen):
    """What to do with one token: its embedding for models that lack it, or with ``force`` for all."""

    source: TokenSource | ModelReference | None = None
    force: StrictBool = False


class TokenizerSpec(_Frozen):
    """The vocabulary of the output: ``union``, ``base``, or that of a model."""

    source: ModelReference = "union"
    tokens: dict[str, TokenRule] = Field(default_factory=dict)
    pad_to_multiple_of: Annotated[StrictInt, Field(ge=1, le=2**16)] | None = None

    def references(self) -> tuple[str, ...]:
        """The models named, in the order of the document."""
        names = [self.source] if self.source not in ("union", "base") else []
        for rule in self.tokens.values():
            source = rule.source.model if isinstance(rule.source, TokenSource) else rule.source
            names += [source] if source is not None else []
        return tuple(dict.fromkeys(names))


def _patterns(value: Any) -> Any:
    return [value] if isinstance(value, str) else [] if value is None else value


class Recipe(_Frozen):
    """A complete merge; frozen, equal by value, round-trips to YAML that MergeKit reads.

    ``models`` and ``base_model`` are references: a local folder or a hub id, with an optional
    ``@revision`` and ``+lora``, or the name of one of ``stages``. Exactly one of ``models``, ``slices`` and
    ``modules`` is set. ``ignore`` are patterns of names of tensors that are left out of all models.
    ``stages`` are the other documents of a file with several: merges that are inputs.
    """

    merge_method: str
    base_model: ModelReference | None = None
    models: tuple[Source, ...] | None = Field(default=None, min_length=1)
    slices: tuple[Slice, ...] | None = Field(default=None, min_length=1)
    modules: dict[str, Module] | None = Field(default=None, min_length=1)
    parameters: Settings = Field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: ModelReference | None = None
    tokenizer: TokenizerSpec | None = None
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    ignore: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_patterns)] = ()
    name: str | None = None
    stages: tuple[Recipe, ...] = Field(default=(), max_length=100)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # parameters are dictionaries

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader ignored or changed; no part of the value."""
        return self._warnings

    def with_warnings(self, warnings: tuple[str, ...]) -> Recipe:
        """The same recipe with ``warnings`` of its reader."""
        copy = self.model_copy()
        copy._warnings = warnings  # noqa: SLF001 (of its own class)
        return copy

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [k for k in ("models", "slices", "modules") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a recipe has exactly one of 'models', 'slices' and 'modules', not {given or 'none'}"
            )
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("give 'tokenizer' or 'tokenizer_source', not both")
        self._check_stages()
        return self

    @property
    def vocabulary(self) -> TokenizerSpec | None:
        """What the recipe says of the output's vocabulary, in its long form."""
        if self.tokenizer_source is not None:
            return TokenizerSpec(source=self.tokenizer_source)
        return self.tokenizer

    def merged(self) -> tuple[str, ...]:
        """Every model or stage that this merge is made from, once, in order; the base model first."""
        names = [self.base_model] if self.base_model is not None else []
        for part in self._parts():
            if isinstance(part, Slice) and part.base_model is not None:
                names.append(part.base_model)
            names += [s.model for s in (part.sources if isinstance(part, Slice) else (part,))]
        return tuple(dict.fromkeys(names))

    def inputs(self) -> tuple[str, ...]:
        """What this merge reads: models and stages merged, then others that the tokenizer section names."""
        tokens = self.vocabulary.references() if self.vocabulary is not None else ()
        return tuple(dict.fromkeys((*self.merged(), *tokens)))

    def references(self) -> tuple[str, ...]:
        """Every model named, in all stages and in the tokenizer section; those merged come first.

        An adapter over a stage (``stage+adapter``) is named alone, as ``+adapter``.
        """
        stages = [stage.name for stage in self.stages]
        names = [*self.inputs()]
        for stage in self.stages:
            names += stage.references()
        found = {name: stage_of(name, stages) for name in names}
        alone = [name if stage is None else name[len(stage) :] for name, stage in found.items()]
        return tuple(dict.fromkeys(name for name in alone if name))

    def document(self) -> dict[str, Any]:
        """The recipe as plain YAML values; what was not set is left out."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def key(self) -> str:
        """A canonical text: two recipes with one key ask for the same merge."""
        return json.dumps(self.document(), sort_keys=True, separators=(",", ":"))

    def with_references(self, names: Mapping[str, str]) -> Recipe:
        """The same recipe with every model reference replaced by what ``names`` says for it."""

        def rename(node: Any, key: str = "") -> Any:
            if isinstance(node, dict):
                return {k: rename(v, k) for k, v in node.items()}
            if isinstance(node, list):
                return [rename(v, key) for v in node]
            if key not in ("model", "base_model", "tokenizer_source", "source") or not isinstance(node, str):
                return node
            stage = stage_of(node, stages) or ""
            rest = node[len(stage) :]
            return stage + names.get(rest, rest)

        stages = [stage.name for stage in self.stages]

        return Recipe.model_validate(rename(self.document())).with_warnings(self._warnings)

    def _parts(self) -> Iterator[Slice | Source]:
        yield from self.models or ()
        yield from self.slices or ()
        for module in (self.modules or {}).values():
            yield from module.models or ()
            yield from module.slices or ()

    def _check_stages(self) -> None:
        names = [stage.name for stage in self.stages]
        if any(not name for name in names):
            raise ValueError("each stage needs a name; only the last merge may be without one")
        doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if doubled:
            raise ValueError(f"two stages are called {doubled[0]!r}")
        if any(stage.stages for stage in self.stages):
            raise ValueError("a stage has no stages of its own: list them side by side")
        inputs = {
            stage.name: [s for m in stage.inputs() if (s := stage_of(m, names)) is not None]
            for stage in self.stages
        }
        done: list[str | None] = []
        while len(done) < len(names):
            ready = [n for n in names if n not in done and all(m in done for m in inputs[n])]
            if not ready:
                circle = [n for n in names if n not in done]
                raise ValueError(f"the stages {circle} need each other: a merge cannot be its own input")
            done += ready
