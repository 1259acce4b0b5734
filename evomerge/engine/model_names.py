"""What transformers calls the weights of a configuration, and which tensors of files it makes them from.

The models are built without memory (torch's meta device): tens of milliseconds each.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evomerge.engine.layers import BESIDE
from evomerge.errors import CheckpointError
from evomerge.tokenizers.vocabulary import quiet

__all__ = [
    "Group",
    "LoadTarget",
    "ModelNames",
    "Uncopied",
    "first_line",
    "names_in_files",
    "parse_config",
    "tied_head",
    "ties_embeddings",
    "unneeded_names",
]


def parse_config(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The configuration as transformers reads it from an exported folder, and the class that it names.

    Without a name it is the causal language model of that type.

    Raises:
        CheckpointError: transformers has no such model, or refuses the configuration.
    """
    import transformers

    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="evomerge-config-") as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            parsed = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        name = next(iter(parsed.architectures or []), None)
        if name is None:
            with quiet(), torch.device("meta"):
                return parsed, type(transformers.AutoModelForCausalLM.from_config(parsed))
        model_class = getattr(transformers, name, None)
        if model_class is None:
            raise ValueError(f"transformers has no class {name!r}")
    except Exception as exception:  # noqa: BLE001 (each configuration has checks of its own)
        raise CheckpointError(
            "config.json", f"no model can be built from it ({first_line(exception)})"
        ) from None
    return parsed, model_class


def first_line(exception: BaseException) -> str:
    """The first line of its message, or its type where there is none."""
    return next(iter(str(exception).splitlines()), type(exception).__name__)


def names_in_files(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """For the weights of the module that transformers makes, which of ``names`` they are loaded from.

    Only those that are one tensor in both; none where transformers cannot tell.
    """
    try:
        loaded = ModelNames.of(config).load_targets(names)
    except CheckpointError:
        return {}
    return {target.weight: name for name, target in loaded.items() if not target.is_converted}


def unneeded_names(config: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    """Those of ``names``, all of one model, that transformers does not load into a weight.

    None where it cannot tell.
    """
    try:
        model = ModelNames.of(config)
    except CheckpointError:
        return frozenset()
    return frozenset(
        n for n, target in model.load_targets(names).items() if target.weight not in model.weights
    )


def tied_head(config: Mapping[str, Any]) -> tuple[str, str, bool] | None:
    """The output embedding's weight, the weight that it is tied to, and whether others are tied to that too.

    The names are transformers' own. ``None`` where they are not tied, or transformers cannot tell.
    """
    try:
        return ModelNames.of(config).tied_head()
    except CheckpointError:
        return None


def ties_embeddings(config: Mapping[str, Any]) -> bool | None:
    """Whether transformers ties output embeddings to those of the input; None where it has no such model."""
    try:
        parsed, _ = parse_config(config)
    except CheckpointError:
        return None
    for part in (parsed, parsed.get_text_config(decoder=True)):
        if isinstance(getattr(part, "tie_word_embeddings", None), bool):
            return bool(part.tie_word_embeddings)
    return False


@dataclass(frozen=True)
class LoadTarget:
    """What a tensor of a file is loaded into: ``weight`` of the module, or (``is_converted``) a part of it.

    ``canonical`` distinguishes it from the other parts of the weight; transformers loads this name as well.
    """

    canonical: str
    weight: str
    is_converted: bool
    inner: str = ""
    """The name without the modules of a wrapper around all tensors of the file."""


@dataclass(frozen=True, eq=False)
class Group:
    """Weights of a module that transformers saves as other tensors (experts one by one), and these."""

    weights: tuple[str, ...]
    parts: Mapping[str, tuple[int, ...]]
    """Shapes, by canonical name."""


class ModelNames:
    """The weights of a model class with one configuration; no weights are held.

    ``weights`` are shapes by name, ``tied`` says which weight is another under a second name.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        parsed, model_class = parse_config(config)
        try:
            with quiet(), torch.device("meta"):
                self._module = model_class._from_config(parsed)  # noqa: SLF001 (the public one is of Auto classes)
            self._weights: dict[str, Tensor] = dict(self._module.state_dict())
        except Exception as exception:  # noqa: BLE001 (what models raise depends on the model)
            raise CheckpointError(
                "config.json", f"no {model_class.__name__} can be made of it ({first_line(exception)})"
            ) from None
        self.weights = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        self.tied: dict[str, str] = dict(getattr(self._module, "all_tied_weights_keys", None) or {})
        self.prefix: str = self._module.base_model_prefix

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelNames:
        """Those of ``config``, made once.

        Raises:
            CheckpointError: transformers cannot build the model.
        """
        return _names_of(json.dumps(config, sort_keys=True))

    def tied_head(self) -> tuple[str, str, bool] | None:
        """As the function of that name."""
        output = self._module.get_output_embeddings()
        head = next((f"{n}.weight" for n, m in self._module.named_modules() if m is output), "")
        if head not in self.tied:
            return None
        return head, self.tied[head], list(self.tied.values()).count(self.tied[head]) > 1

    def does_without(self, name: str) -> bool:
        """Whether the model class says that it ignores such a tensor (a drafting head, for instance)."""
        patterns = getattr(self._module, "_keys_to_ignore_on_load_unexpected", None) or ()
        return any(re.search(pattern, name) for pattern in patterns)

    def decoder(self) -> str | None:
        """Where the text decoder of a model of several towers stands, as a prefix of names."""
        find = getattr(self._module, "get_decoder", None)
        inner = find() if find is not None else None
        path = next((n for n, m in self._module.named_modules() if m is inner and n), None)
        return f"{path}." if path is not None else None

    def layer_traits(self) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """The class of the model, and what tells the kind of each layer of its main stack.

        Classes, shapes of weights and plain settings of all modules of a layer (a window, whether it rotates,
        a scale), but for its position.
        """
        lists = {n: m for n, m in self._module.named_modules() if isinstance(m, torch.nn.ModuleList)}
        outer = {n: m for n, m in lists.items() if not any(n.startswith(f"{o}.") for o in lists)}
        main = {n: m for n, m in outer.items() if not BESIDE.search(n)} or outer
        count = getattr(self._module.config.get_text_config(decoder=True), "num_hidden_layers", None)
        fitting = [m for m in main.values() if len(m) == count] or sorted(main.values(), key=len)[-1:]
        layers = fitting[0] if fitting else ()
        return type(self._module).__name__, tuple(_traits(layer) for layer in layers)

    def load_targets(self, names: Iterable[str]) -> dict[str, LoadTarget]:
        """What each of ``names``, all of one file, is loaded into."""
        from transformers.core_model_loading import apply_converters, apply_renamings

        renamings, converters = self._transforms()
        found = {}
        for name in sorted(names):  # some renamings depend on what came before, in this order
            plain = apply_renamings(name, renamings)
            weight, pattern = apply_converters(plain, converters)
            before, after = self._find_prefix(weight)
            if after + weight.removeprefix(before) not in self.weights and name in self.weights:
                # Some renamings are not for new names.
                found[name] = LoadTarget(name, name, is_converted=False)
                continue
            canonical = after + plain.removeprefix(before)
            found[name] = LoadTarget(canonical, after + weight.removeprefix(before), pattern is not None)
        return found

    def _find_prefix(self, weight: str) -> tuple[str, str]:
        """(prefix to take away, prefix to put there): models load with and without that of their base."""
        prefix = f"{self.prefix}."
        if self.prefix and weight not in self.weights:
            if weight.startswith(prefix) and weight.removeprefix(prefix) in self.weights:
                return prefix, ""
            if prefix + weight in self.weights:
                return "", prefix
        return "", ""

    def saved_name(self, canonical: str) -> str:
        """The name under which transformers saves what it knows as ``canonical``."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import PrefixChange, WeightRenaming, apply_renamings

        transforms: list[Any] = [
            t.reverse_transform()
            for t in get_model_conversion_mapping(self._module, add_legacy=False)[::-1]
            if isinstance(t, WeightRenaming) and not isinstance(t, PrefixChange)
        ]
        name: str = apply_renamings(canonical, transforms)
        return name

    def groups(self, weights: Iterable[str]) -> list[Group]:
        """Those of ``weights`` that are saved as other tensors, with these, as far as they load again."""
        groups: list[Group] = []
        given = set(weights)
        for sources in self._by_group(given).values():
            try:
                parts = self.split({name: self._weights[name] for name in sources})
            except Exception:  # noqa: BLE001 (what is converted only one way stays as it is)
                parts = {}
            again = self.load_targets(parts).values()
            if {t.weight for t in again} <= set(sources) and parts and all(t.is_converted for t in again):
                groups.append(Group(sources, {n: tuple(p.shape) for n, p in parts.items()}))
        return groups

    def split(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that transformers saves for the weights of a group, by canonical name; views."""
        from transformers.core_model_loading import apply_converters, dot_natural_key

        converters = self._reverse_converters()
        made: dict[str, Any] = {}
        for name in sorted(weights, key=dot_natural_key):
            target, pattern = apply_converters(name, converters)
            converter = next(c for c in converters if pattern in c.source_patterns)
            made.setdefault(target, copy.deepcopy(converter)).add_tensor(target, name, pattern, weights[name])
        parts: dict[str, Tensor] = {}
        with Uncopied():
            for target, converter in made.items():
                realized = converter.convert(target, model=self._module, config=self._module.config)
                parts |= {n: p[0] if isinstance(p, list) else p for n, p in realized.items()}
        return parts

    def _by_group(self, weights: set[str]) -> dict[str, tuple[str, ...]]:
        from transformers.core_model_loading import apply_converters

        converters = self._reverse_converters()
        found: dict[str, list[str]] = {}
        for name in self.weights if converters else ():
            target, pattern = apply_converters(name, converters)
            if pattern is not None:
                found.setdefault(target, []).append(name)
        return {target: tuple(names) for target, names in found.items() if weights.issuperset(names)}

    def _reverse_converters(self) -> list[Any]:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        transforms = get_model_conversion_mapping(self._module, add_legacy=False)[::-1]
        return [t.reverse_transform() for t in transforms if isinstance(t, WeightConverter)]

    def _transforms(self) -> tuple[list[Any], list[Any]]:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(self._module)
        renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
        return renamings, [t for t in transforms if isinstance(t, WeightConverter)]


_OF_POSITION = re.compile(r"(^|_)(idx|index|id|number|name|prefix|path|seed)$|drop|training")
"""Settings of a module that depend on its position, or only matter in training."""


def _traits(layer: torch.nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in layer.named_modules():
        found[f"{name} class".strip()] = type(module).__name__
        for key, value in vars(module).items():
            if isinstance(value, bool | int | float | str | None) and not _OF_POSITION.search(key):
                found[f"{name}.{key}".lstrip(".")] = value
    for name, weight in layer.named_parameters():
        found[name] = tuple(weight.shape)
    return found


@functools.lru_cache(maxsize=16)
def _names_of(config: str) -> ModelNames:
    return ModelNames(json.loads(config))


class Uncopied(TorchFunctionMode):
    """Within, chunks and transposed tensors stay views of the tensors they were taken from."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """``func`` of its arguments; ``contiguous`` does nothing."""
        return args[0] if func is Tensor.contiguous else func(*args, **(kwargs or {}))
