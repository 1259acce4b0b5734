"""evomerge methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from evomerge.cli._console import console, print_json

if TYPE_CHECKING:
    from evomerge.methods import MergeMethod, Parameter

__all__ = ["command"]


def command(
    name: Annotated[str | None, typer.Argument(help="One method; all of them if not given.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the merge methods and their parameters."""
    from evomerge.methods import get_method, methods

    chosen = methods() if name is None else (get_method(name),)
    if json_:
        print_json([_document(m) for m in chosen])
        return
    for method in chosen:
        console.print(Text.assemble((method.name, "bold"), "  ", method.doc.splitlines()[0]))
        console.print(f"  {_models(method)}. Source: {method.source}")
        table = Table.grid(padding=(0, 2))
        for p in method.parameters.values():
            table.add_row("   ", p.name, "per model" if p.per_model else "global", _default(p), _doc(p))
        console.print(table)


def _models(method: MergeMethod) -> str:
    low, high = method.models
    count = f"{low}" if low == high else f"{low} or more"
    return (
        f"{count} model(s)"
        + {"required": " and a base", "optional": ", a base if given", "none": ""}[method.base.value]
    )


def _default(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    value = parameter.default[0] if parameter.per_model else parameter.default
    return f"default {str(value).lower() if isinstance(value, bool) else value}"


def _doc(parameter: Parameter) -> str:
    bounded = parameter.low is not None or parameter.high is not None
    return f"{parameter.doc} ({parameter.bounds})" if bounded else parameter.doc


def _document(method: MergeMethod) -> dict[str, object]:
    return {
        "name": method.name,
        "doc": method.doc,
        "source": method.source,
        "base": method.base.value,
        "models": list(method.models),
        "parameters": [
            {
                "name": p.name,
                "scope": "model" if p.per_model else "global",
                "kind": p.kind.__name__,
                "required": p.required,
                "default": None if p.required else (p.default[0] if p.per_model else p.default),
                "low": p.low,
                "high": p.high,
                "doc": p.doc,
            }
            for p in method.parameters.values()
        ],
    }
