"""The value of a merge parameter for one tensor: scopes, filters, gradients.

A setting is a scalar, a gradient (a list of scalars spread over the layers), or a list of
``{filter, value}`` entries whose values are scalars or gradients. Semantics of the MergeKit dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Scalar = bool | int | float | str | None
Setting = Any
"""Scalar | list[Scalar] | list[{"filter": str, "value": ...}] | {"filter": ..., "value": ...}, as in YAML."""

Parameters = Mapping[str, Setting]

__all__ = ["Parameters", "Scalar", "Setting", "check_setting", "filters_of", "lookup"]


def check_setting(setting: Setting) -> Setting:
    """``setting`` itself, if it is well formed.

    Raises:
        ValueError: It is neither a scalar, a list of scalars, nor a list of filter entries.
    """
    if _is_scalar(setting):
        return setting
    if isinstance(setting, Mapping):
        return _check_entry(setting)
    if isinstance(setting, Sequence) and len(setting) > 0:
        if all(_is_scalar(v) for v in setting):
            return list(setting)
        if all(isinstance(v, Mapping) for v in setting):
            return [_check_entry(v) for v in setting]
    raise ValueError("expected a value, a list of values (a gradient), or a list of {filter, value} entries")


def lookup(
    name: str,
    tensor: str,
    position: float,
    scopes: Iterable[Parameters],
    check: Callable[[Scalar], Scalar] = lambda value: value,
) -> Scalar:
    """The value of parameter ``name`` for ``tensor`` at ``position`` in [0, 1] of its slice.

    ``scopes`` are tried from the narrowest to the widest; where no filter of a scope matches the tensor, the
    next one is tried. ``None`` when no scope sets the parameter. ``check`` converts a value to the
    parameter's kind, or raises ValueError; of a gradient it checks every point (``[0, 1]`` has no middle
    where 0 and 1 are booleans) and the result.
    """
    for scope in scopes:
        if scope.get(name) is None:
            continue
        setting = scope[name]
        if isinstance(setting, Mapping):
            setting = [setting]
        if _is_entries(setting):
            entry = next((e for e in setting if _matches(e.get("filter"), tensor)), None)
            if entry is None:
                continue
            setting = entry["value"]
        return _at(setting, position, check)
    return None


def filters_of(setting: Setting) -> list[str]:
    """The filters named in ``setting``, without the catch-all."""
    entries = [setting] if isinstance(setting, Mapping) else setting
    if not _is_entries(entries):
        return []
    return [e["filter"] for e in entries if e.get("filter") not in (None, "*")]


def _at(setting: Setting, position: float, check: Callable[[Scalar], Scalar]) -> Scalar:
    """A gradient at ``position``: linear between its points; the point below for values without a middle."""
    if setting is None:
        return None
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return check(setting)
    points = [check(point) for point in setting]
    place = position * (len(points) - 1)
    i = int(place)
    if not all(_is_number(point) for point in points):
        return points[i]
    j = min(i + 1, len(points) - 1)
    share = place - i
    return check((1 - share) * float(points[i]) + share * float(points[j]))  # type: ignore[arg-type]


def _check_entry(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = sorted(set(entry) - {"filter", "value"})
    if unknown or "value" not in entry:
        raise ValueError(f"a filter entry has the keys 'filter' and 'value', not {sorted(entry)}")
    if entry.get("filter") is not None and not isinstance(entry["filter"], str):
        raise ValueError("the 'filter' of a filter entry is a part of a tensor name")
    value = entry["value"]
    if not _is_scalar(value) and not (
        isinstance(value, list | tuple) and value and all(map(_is_scalar, value))
    ):
        raise ValueError("the 'value' of a filter entry is a value or a list of values")
    return {**entry, "value": value if _is_scalar(value) else list(value)}


def _matches(filter_: str | None, tensor: str) -> bool:
    return filter_ is None or filter_ == "*" or filter_ in tensor


def _is_entries(setting: Setting) -> bool:
    return isinstance(setting, list | tuple) and len(setting) > 0 and isinstance(setting[0], Mapping)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
