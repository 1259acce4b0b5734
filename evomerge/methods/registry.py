"""The registry of merge methods: what a method is, and how a function is registered as one.

The decorated function is the method's *prepare* step: statistics and parameters in, the coefficients of one
candidate out. Its keyword-only arguments are the method's parameters, and the whole schema of them:
``float``, ``int``, ``bool`` or ``str`` for one value, ``PerModel`` for one per model, ``Annotated`` with a
``Range`` for documentation and bounds, a default for optional ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from evomerge.errors import RecipeError, did_you_mean
from evomerge.kernels import InputMeasure, Kernel, nothing
from evomerge.registry import Registry

__all__ = ["Base", "MergeMethod", "Parameter", "PerModel", "Range", "get_method", "merge_method", "methods"]

PerModel = tuple[float, ...]
"""One number per model; for a method with a base, one per other model."""

Bound = dict[str, Any]
"""Parameters of one tensor: a scalar, or a tuple with one scalar per model."""


class Base(StrEnum):
    """What ``base_model`` means to a method."""

    REQUIRED = "required"  # the first input, and never one of the merged models
    OPTIONAL = "optional"  # the same where the recipe names one
    NONE = "none"  # only the config source of configuration and tokenizer; merged where it is listed


@dataclass(frozen=True)
class Range:
    """What a parameter means, and its bounds (inclusive)."""

    doc: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    """Words allowed besides the values of the parameter's kind."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a merge method, as its signature declares it."""

    name: str
    kind: type
    per_model: bool
    required: bool
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """``value`` as this parameter's kind.

        Raises:
            ValueError: It is of another kind or out of bounds.
        """
        if isinstance(value, str) and value in self.words:
            return value
        if self.kind is bool:
            if isinstance(value, bool) or value in (0, 1):
                return bool(value)
            raise ValueError(f"expected {' or '.join(('true', 'false', *self.words))}, got {value!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"expected a number, got {value!r}")
        if not abs(value) <= _LARGEST:
            raise ValueError(f"expected a number, got {value!r:.80}")
        if self.kind is int and value != int(value):
            raise ValueError(f"expected a whole number, got {value!r}")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise ValueError(f"{value!r} is not {self.bounds}")
        return self.kind(value)

    @property
    def bounds(self) -> str:
        """``between 0 and 1``, in words."""
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        return f"at least {self.low:g}" if self.low is not None else "a number"


@dataclass(frozen=True)
class MergeMethod:
    """A merge method: three pure steps, and the schema of its parameters.

    ``measure`` chooses the statistic of the inputs, taken once per study; ``prepare`` turns it and one
    candidate's parameters into coefficients; ``kernel`` computes the weights. ``models`` bounds the number of
    models besides the base (besides nothing, where ``base`` is NONE).
    """

    name: str
    doc: str
    source: str
    prepare: Callable[..., Any]
    measure: Callable[[Bound], InputMeasure]
    kernel: Kernel
    base: Base
    models: tuple[int, int | None]
    check: Callable[[Bound], None]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    context: frozenset[str] = frozenset()


_LARGEST = 1e300
"""Of any parameter: no infinity, and no whole number that is too large for a float."""
_METHODS: Registry[MergeMethod] = Registry("merge method", "evomerge.methods")
_CONTEXT = ("has_base", "key")
"""Arguments of ``prepare`` that the engine gives and no recipe sets: whether the first input is the base,
and a number that is different for each output tensor (for random masks)."""


def merge_method(  # noqa: PLR0913 (the keywords are the declaration of a method)
    name: str,
    *,
    source: str,
    kernel: Kernel,
    measure: InputMeasure | Callable[[Bound], InputMeasure] = nothing,
    base: Base = Base.NONE,
    models: tuple[int, int | None] = (1, None),
    check: Callable[[Bound], None] = lambda _: None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that registers the function below it as the merge method ``name``.

    ``measure`` may depend on the parameters: with density 1 nothing is trimmed, and the pass over the weights
    is saved. ``check`` raises ValueError for parameters that are wrong only together.
    """

    def register(prepare: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(prepare, include_extras=True)
        keyword_only = [p for p in inspect.signature(prepare).parameters.values() if p.kind is p.KEYWORD_ONLY]
        parameters = [_parameter(p, hints[p.name]) for p in keyword_only if p.name not in _CONTEXT]
        method = MergeMethod(
            name=name,
            doc=inspect.getdoc(prepare) or "",
            source=source,
            prepare=prepare,
            measure=(lambda _: measure) if isinstance(measure, InputMeasure) else measure,
            kernel=kernel,
            base=base,
            models=models,
            check=check,
            parameters={p.name: p for p in parameters},
            context=frozenset(p.name for p in keyword_only if p.name in _CONTEXT),
        )
        _METHODS.add(name, method)
        return prepare

    return register


def get_method(name: str) -> MergeMethod:
    """The merge method called ``name``.

    Raises:
        RecipeError: There is none.
    """
    if name not in _METHODS:
        hint = " ".join((did_you_mean(name, sorted(_METHODS)), *_METHODS.failures))
        raise RecipeError("merge_method", f"there is no merge method {name!r}", hint)
    return _METHODS[name]


def methods() -> tuple[MergeMethod, ...]:
    """Every merge method, by name."""
    return tuple(_METHODS[name] for name in sorted(_METHODS))


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    range_ = Range("")
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        range_ = next((e for e in extras if isinstance(e, Range)), range_)
    per_model = hint == PerModel
    kinds = [k for k in get_args(hint) if k is not type(None)] or [hint]
    required = parameter.default is inspect.Parameter.empty
    return Parameter(
        name=parameter.name.rstrip("_"),  # `lambda_` is the recipe's `lambda`
        kind=float if per_model else kinds[0],
        per_model=per_model,
        required=required,
        default=None if required else parameter.default,
        doc=range_.doc,
        low=range_.low,
        high=range_.high,
        words=range_.words,
    )
