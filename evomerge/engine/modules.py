"""The modules of a model that a recipe merges separately: all of it as one, or each of its ``modules``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from evomerge.engine.optional_tensors import is_embedding
from evomerge.errors import RecipeError, did_you_mean
from evomerge.recipe import Parameters, Recipe, Slice, Source

__all__ = ["OutputModule", "find_modules", "module_of"]

_REST = ("default", "text_decoder", "language_model")
"""Modules that own what no other module does: the language model is not always below a name of its own."""
_ALIASES = {
    "vision_tower": ("vision_tower", "vision_model", "visual", "vision_encoder", "vision"),
    "audio_tower": ("audio_tower", "audio_model", "audio_encoder", "audio"),
    "multi_modal_projector": (
        "multi_modal_projector",
        "mm_projector",
        "connector",
        "projector",
        "embed_vision",
    ),
}
"""What recipes call a module, and the names it goes by in tensors; other modules go by their own name."""


@dataclass(frozen=True, eq=False)
class OutputModule:
    """The tensors below ``prefix`` (all others, if it is empty), and what they are merged from."""

    name: str
    prefix: str
    models: tuple[Source, ...] | None
    slices: tuple[Slice, ...] | None
    scopes: tuple[Parameters, ...] = field(default=())

    @property
    def place(self) -> str:
        """The beginning of its fields in the recipe, for messages."""
        return f"modules.{self.name}." if self.name else ""


def find_modules(recipe: Recipe, tensors: Iterable[str]) -> tuple[OutputModule, ...]:
    """The modules that ``recipe`` merges, for a model with these tensor names.

    Raises:
        RecipeError: A module is not in the model, or a tensor is in none of the modules.
    """
    if recipe.modules is None:
        return (OutputModule("", "", recipe.models, recipe.slices),)
    names = list(tensors)
    components = _components(names)
    modules: list[OutputModule] = []
    for name, given in recipe.modules.items():
        prefix = _prefix(name, components)
        clash = next((m.name for m in modules if m.prefix == prefix), None)
        if clash is not None:
            raise RecipeError(f"modules.{name}", f"means the same tensors as {clash!r}")
        modules.append(OutputModule(name, prefix, given.models, given.slices, (given.parameters,)))
    if not any(module.prefix == "" for module in modules):
        unassigned = [n for n in names if not any(n.startswith(m.prefix) for m in modules)]
        decoder = next((i for i, m in enumerate(modules) if m.name in _REST), None)
        # In some spellings the head stands outside of the language model that it belongs to.
        if unassigned and decoder is not None and all(is_embedding(name) for name in unassigned):
            modules[decoder] = replace(modules[decoder], prefix="")
            unassigned = []
        if unassigned:
            raise RecipeError(
                "modules",
                f"{len(unassigned)} tensors are in none of the modules, such as {unassigned[0]}",
                "Add a module 'text_decoder' (or 'default') for all that remains.",
            )
    return tuple(modules)


def module_of(name: str, modules: Sequence[OutputModule]) -> OutputModule | None:
    """The module that the tensor (or stack) ``name`` belongs to: the one with the longest fitting prefix.

    None where it is in no module, as may be in another model than the one that the modules were found in.
    """
    fitting = (m for m in modules if name.startswith(m.prefix))
    return max(fitting, key=lambda m: len(m.prefix), default=None)


def _prefix(name: str, components: Sequence[str]) -> str:
    for word in _ALIASES.get(name, (name,)):
        found = [c for c in components if word in (c, c.rsplit(".", 1)[-1], c.replace(".", "_"))]
        if found:
            return min(found, key=len) + "."
    if name in _REST:
        return ""
    known = [c.rsplit(".", 1)[-1] for c in components]
    raise RecipeError(
        "modules",
        f"the model has no module {name!r}",
        did_you_mean(name, dict.fromkeys((*_REST[:2], *known))),
    )


def _components(names: Iterable[str]) -> list[str]:
    """Every inner module above the layers: dotted beginnings of tensor names, up to the first number."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")[:-1]
        for i, part in enumerate(parts):
            if part.isdigit():
                break
            found.setdefault(".".join(parts[: i + 1]))
    return list(found)
