"""A merge recipe: what to merge, in the words of the MergeKit dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, model_validator

from evomerge.recipe.values import check_setting

__all__ = ["Module", "Recipe", "Slice", "Source"]

Settings = dict[str, Annotated[Any, AfterValidator(check_setting)]]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """One input model of a slice (or of the whole merge), with its own parameters."""

    model: str
    layer_range: tuple[StrictInt, StrictInt] | None = None
    parameters: Settings = Field(default_factory=dict)


class Slice(_Frozen):
    """A run of layers of the output, merged from equally long runs of layers of the sources."""

    sources: tuple[Source, ...] = Field(min_length=1)
    base_model: str | None = None
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

    slices: tuple[Slice, ...] | None = None
    models: tuple[Source, ...] | None = None
    parameters: Settings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.slices is None) == (self.models is None):
            raise ValueError("a module has exactly one of 'models' and 'slices'")
        return self


class Recipe(_Frozen):
    """A complete merge; frozen, equal by value, round-trips to YAML that MergeKit reads.

    ``models`` and ``base_model`` are references: a local folder or a hub id, with an optional
    ``@revision`` and ``+lora``. Exactly one of ``models``, ``slices`` and ``modules`` is set.
    """

    merge_method: str
    base_model: str | None = None
    models: tuple[Source, ...] | None = Field(default=None, min_length=1)
    slices: tuple[Slice, ...] | None = Field(default=None, min_length=1)
    modules: dict[str, Module] | None = Field(default=None, min_length=1)
    parameters: Settings = Field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | dict[str, Any] | None = None
    tokenizer: dict[str, Any] | None = None
    chat_template: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [k for k in ("models", "slices", "modules") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a recipe has exactly one of 'models', 'slices' and 'modules', not {given or 'none'}"
            )
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("give 'tokenizer' or 'tokenizer_source', not both")
        return self

    def references(self) -> tuple[str, ...]:
        """Every model named, once, in the order of the document; the base model first."""
        names = [self.base_model] if self.base_model is not None else []
        for part in self._parts():
            if isinstance(part, Slice) and part.base_model is not None:
                names.append(part.base_model)
            names += [s.model for s in (part.sources if isinstance(part, Slice) else (part,))]
        return tuple(dict.fromkeys(names))

    def document(self) -> dict[str, Any]:
        """The recipe as plain YAML values; what was not set is left out."""
        # A JSON round trip turns tuples into lists, which is what YAML and comparisons want.
        document: dict[str, Any] = json.loads(self.model_dump_json(exclude_unset=True, exclude_none=True))
        return document

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
            return names.get(node, node) if key in ("model", "base_model") and isinstance(node, str) else node

        return Recipe.model_validate(rename(self.document()))

    def _parts(self) -> Iterator[Slice | Source]:
        yield from self.models or ()
        yield from self.slices or ()
        for module in (self.modules or {}).values():
            yield from module.models or ()
            yield from module.slices or ()
