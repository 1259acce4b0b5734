"""One spelling for the tensor names of all models of a merge: that of the config source.

transformers loads a checkpoint under several spellings: with and without the prefix of the base model, with
prefixes of former releases, with ``gamma`` for ``weight``, with the experts of a layer one by one or stacked.
Two tensors correspond where transformers loads them into the same weight.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint, TensorInfo
from evomerge.checkpoints.rename import TensorOrigin, rename_tensors
from evomerge.engine.model_names import Group, LoadTarget, ModelNames
from evomerge.errors import CheckpointError

__all__ = ["CanonicalTensors", "is_stacked", "match_names", "unwrap"]

_INNER = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""Modules that torch.compile, FSDP, activation checkpointing and Lightning put around others."""
_OUTER = ("module.", "base_model.model.", "pretrained_model.")
"""What DDP and DeepSpeed, PEFT and TRL put around a whole model."""
_BESIDE_OUTER = ("v_head.",)
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\b")
_OF_PEFT = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.)")
_ORIGINAL = re.compile(r"\.original_module\.")
_GROUPS = 8
"""Groups of weights (those of one layer) whose parts are kept: some for each thread."""
_STACKED = re.compile(r"experts\b|gate_up_proj")


class CanonicalTensors:
    """The tensors of a checkpoint by canonical names, which are the same in every spelling.

    ``origins`` and ``infos`` are by canonical name, ``own`` is the name in the files, without the modules of
    a wrapper around all tensors.
    """

    def __init__(self, checkpoint: Checkpoint, names: ModelNames) -> None:
        self.checkpoint = checkpoint
        self.origins: dict[str, TensorOrigin] = {}
        self.infos: dict[str, TensorInfo] = {}
        self.own: dict[str, str] = {}
        self.unknown: list[str] = []
        """Names of tensors that are not weights of the model."""
        self.is_split = False
        self.wrapper = ""
        """The modules around all tensors, where they are not of a known wrapper."""
        self._parts = _Parts(checkpoint, names)
        loaded = _load_targets(checkpoint, names)
        groups = _groups(checkpoint, loaded, names)
        for name in checkpoint.tensors:
            target = loaded[name]
            group = groups.get(name)
            if group is not None:
                self._add_parts(group, loaded, names)
            elif target.weight in names.weights and target.canonical not in self.origins:
                own = target.inner or name
                self.wrapper = name.removesuffix(own)
                self._add(target.canonical, TensorOrigin(name), checkpoint.tensors[name], own)
            else:
                self.unknown.append(name)

    def _add(self, canonical: str, origin: TensorOrigin, info: TensorInfo, own: str) -> None:
        self.origins[canonical], self.infos[canonical], self.own[canonical] = origin, info, own

    def _add_parts(self, group: Group, loaded: Mapping[str, LoadTarget], names: ModelNames) -> None:
        self.is_split = True
        files = {loaded[n].weight: n for n in loaded if loaded[n].weight in group.weights}
        dtype = self.checkpoint.tensors[files[group.weights[0]]].dtype
        for canonical, shape in group.parts.items():
            if canonical not in self.origins:
                origin = TensorOrigin(
                    sources=tuple(files.values()), part=partial(self._parts.read, group, files, canonical)
                )
                self._add(canonical, origin, TensorInfo(shape, dtype), names.saved_name(canonical))


class _Parts:
    """The tensors that the weights of groups are saved as, as views; a few groups are kept at a time."""

    def __init__(self, checkpoint: Checkpoint, names: ModelNames) -> None:
        self._checkpoint = checkpoint
        self._names = names
        self._lock = threading.Lock()
        self._made: OrderedDict[Group, dict[str, Tensor]] = OrderedDict()

    def read(self, group: Group, files: Mapping[str, str], canonical: str) -> Tensor:
        with self._lock:
            if group not in self._made:
                self._made[group] = self._names.split({w: self._checkpoint.read(n) for w, n in files.items()})
                while len(self._made) > _GROUPS:
                    self._made.popitem(last=False)
            return self._made[group][canonical]


def is_stacked(checkpoint: Checkpoint) -> bool:
    """Whether some of its tensors look like stacks of tensors that transformers saves one by one."""
    return any(len(i.shape) > 2 and _STACKED.search(n) for n, i in checkpoint.tensors.items())


def unwrap(model: str, checkpoint: Checkpoint) -> tuple[Checkpoint, str | None]:
    """The checkpoint without the prefixes of wrappers around its model, and a warning if it had any.

    Raises:
        CheckpointError: It holds the factors of an adapter beside the weights.
    """
    names = {name: _without_wrappers(name) for name in checkpoint.tensors}
    dropped = [n for n, inner in names.items() if _ORIGINAL.search(n) and _count(names, inner) > 1]
    for name in dropped:  # what PEFT trained stands in its place
        del names[name]
    for prefix in (*_OUTER, *_OUTER):
        inside = [n for n in names.values() if not n.startswith(_BESIDE_OUTER)]
        if inside and all(n.startswith(prefix) for n in inside):
            names = {name: inner.removeprefix(prefix) for name, inner in names.items()}
    if all(name == inner for name, inner in names.items()) or len(set(names.values())) < len(names):
        return checkpoint, None
    factor = next((n for n in names if _ADAPTER.search(n)), None)
    if factor is not None:
        raise CheckpointError(
            model,
            f"holds the factors of an adapter beside the weights ({factor})",
            "Merge the adapter into the model first (merge_and_unload of PEFT).",
        )
    origins = {inner: TensorOrigin(name) for name, inner in names.items()}
    infos = {inner: checkpoint.tensors[name] for name, inner in names.items()}
    first, inner = next((n, i) for n, i in names.items() if n != i)
    warning = f"{model}: names of tensors hold those of a wrapper, which are taken away ({first} is {inner})"
    if dropped:
        warning += f"; {', '.join(dropped)} left out for what was trained in its place"
    return rename_tensors(checkpoint, origins, infos), warning


def _count(names: Mapping[str, str], inner: str) -> int:
    return sum(other == inner for other in names.values())


def _without_wrappers(name: str) -> str:
    return _OF_PEFT.sub("", _INNER.sub("", name))


def match_names(lead: CanonicalTensors, other: CanonicalTensors) -> dict[str, str]:
    """The names of the tensors of ``other`` in the spelling of ``lead``.

    Keys are canonical names, for unknown tensors their own. What ``lead`` lacks is named like its neighbours.
    """
    names = {canonical: lead.own[canonical] for canonical in other.origins if canonical in lead.own}
    taken = set(names.values())
    modules = _modules((other.own[c], own) for c, own in names.items())
    for name, own in [(c, other.own[c]) for c in other.origins if c not in names] + [
        (name, name) for name in other.unknown
    ]:
        moved = _translate(own, modules)
        names[name] = moved if moved not in taken else own
        taken.add(names[name])
    return names


def _load_targets(checkpoint: Checkpoint, names: ModelNames) -> dict[str, LoadTarget]:
    """What its tensors are loaded into; if most do not fit, as tensors in a wrapper or of a text decoder."""
    loaded = names.load_targets(checkpoint.tensors)
    fitting = _fitting(loaded, names)
    if 2 * fitting >= len(loaded):
        return loaded
    others = (_inside(checkpoint, names), _as_decoder(checkpoint, names))
    return max((loaded, *others), key=lambda found: _fitting(found, names))


def _fitting(loaded: Mapping[str, LoadTarget], names: ModelNames) -> int:
    return sum(target.weight in names.weights for target in loaded.values())


def _inside(checkpoint: Checkpoint, names: ModelNames) -> dict[str, LoadTarget]:
    """What its tensors are loaded into without the modules around all of them (an unknown wrapper)."""
    inner = {name: name for name in checkpoint.tensors}
    while len({n.split(".", 1)[0] for n in inner.values()}) == 1 and all("." in n for n in inner.values()):
        inner = {name: n.split(".", 1)[1] for name, n in inner.items()}
        loaded = names.load_targets(inner.values())
        if 2 * _fitting(loaded, names) >= len(loaded):
            return {name: replace(loaded[n], inner=n) for name, n in inner.items()}
    return {}


def _as_decoder(checkpoint: Checkpoint, names: ModelNames) -> dict[str, LoadTarget]:
    """What the tensors of a language model are loaded into as the decoder of a model of several towers."""
    decoder = names.decoder()
    try:
        own = ModelNames.of(checkpoint.config)
    except CheckpointError:
        return {}
    if decoder is None:
        return {}

    def inner(name: str) -> str:
        return name if name in names.weights else decoder + name.removeprefix(f"{own.prefix}.")

    return {
        name: LoadTarget(inner(target.canonical), inner(target.weight), target.is_converted)
        for name, target in own.load_targets(checkpoint.tensors).items()
    }


def _groups(checkpoint: Checkpoint, loaded: Mapping[str, LoadTarget], names: ModelNames) -> dict[str, Group]:
    """The tensors of files that are saved as others today, each with its group."""
    direct: dict[str, str] = {}
    for name, target in loaded.items():
        if not target.is_converted and checkpoint.tensors[name].shape == names.weights.get(target.weight):
            direct.setdefault(target.weight, name)
    groups = names.groups(direct) if direct else []
    return {direct[weight]: group for group in groups for weight in group.weights}


def _modules(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Modules of one spelling to those of the other, from pairs of names of one tensor."""
    found: dict[str, str] = {}
    for own, other in pairs:
        left, right = own.split("."), other.split(".")
        while left and right and left[-1] == right[-1]:
            left, right = left[:-1], right[:-1]
            found.setdefault(".".join(left), ".".join(right))
    return found


def _translate(name: str, modules: Mapping[str, str]) -> str:
    """``name`` with its innermost known module as it is called in the other spelling."""
    parts = name.split(".")
    for end in range(len(parts) - 1, -1, -1):
        module = ".".join(parts[:end])
        if module in modules:
            return ".".join([*filter(None, [modules[module]]), *parts[end:]])
    return name
