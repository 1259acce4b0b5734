"""A transformers model in memory, and where in it each tensor of a merge goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from evomerge.engine.compute import rows_of
from evomerge.engine.header import check_unused, refused_stack
from evomerge.engine.loading import load_complete
from evomerge.engine.model_names import Uncopied, parse_config
from evomerge.engine.plan import MergePlan, TensorPlan

__all__ = ["TransformersWeights"]

_MARKS = 65521
"""Marks repeat after this many elements; a prime, so that no two rows are marked alike."""


class TransformersWeights:
    """A transformers model with room for a plan's weights, in one dtype on one device.

    ``place(name)`` is where a tensor of the checkpoint is written; after the last one, ``settle``. It never
    aliases a source: candidates are copied in.

    The names and layouts of files are not those of modules: prefixes differ, the experts of a layer are many
    tensors in a file and one in memory. transformers knows how to load them, so it is asked once, with marked
    tensors under the names of the files, and then it is looked up where they went. There is no list of names.
    The tensors are made as transformers asks for them, and freed where it copies them: the model never needs
    its memory twice. Of each tensor one of these is true:

    - it is a weight of the model, or several are parts of it (nearly all): written in place;
    - it was copied into a part of a weight (experts): that part is written in place;
    - it was rearranged in another way: it stays a tensor of its own, and ``settle`` has it loaded again;
    - the model has no use for it, neither here nor when the merged folder is loaded.
    """

    def __init__(self, plan: MergePlan, dtype: torch.dtype, device: torch.device) -> None:
        self._key = _key(plan, dtype)
        self._dtype = dtype
        self._device = device
        self._config, self._class = parse_config(plan.config)
        marked = {t.name: _Marked(t, n, dtype, device) for n, t in enumerate(plan.tensors)}
        self.module = self._load(marked, plan.config_source)
        self._places: dict[str, Tensor] = {}
        self._loads_again = device.type != "meta" and self._find_places(marked)

    @classmethod
    def of_layers(cls, plan: MergePlan, dtype: torch.dtype, device: torch.device) -> TransformersWeights:
        """The model of a layer-stack, whose configuration was changed for it.

        Raises:
            RecipeError: The configuration cannot say what the layers are: weights would be missing, left over
                or of another shape.
        """
        with refused_stack():
            weights = cls(plan, dtype, device)
            check_unused(plan, weights.unused)
        return weights

    def fits(self, plan: MergePlan, dtype: torch.dtype) -> bool:
        """Whether this model has room for the weights of ``plan`` and calculates in ``dtype``."""
        return self._key == _key(plan, dtype)

    def place(self, name: str) -> Tensor:
        """Where the tensor ``name`` is written, as rows: (R, C)."""
        return rows_of(self._places[name])

    def settle(self) -> None:
        """Brings weights up to date that could not be written in place; usually there are none.

        Takes the time and memory of loading the model once more from memory.
        """
        if not self._loads_again:
            return
        loaded = self._load(self._places).state_dict()
        for name, weight in self.module.state_dict().items():
            if weight.data_ptr() != loaded[name].data_ptr():
                weight.copy_(loaded[name])

    def _load(self, tensors: Mapping[str, Tensor | _Marked], config_source: str = "") -> nn.Module:
        """The model that transformers makes of ``tensors``, which it shares where it can."""
        module, self.unused = load_complete(
            self._config, self._class, tensors, self._dtype, self._device, config_source
        )
        model: nn.Module = module.requires_grad_(requires_grad=False).eval()
        return model

    def _find_places(self, marked: Mapping[str, _Marked]) -> bool:
        """Finds what became of the ``marked`` tensors; whether some weights cannot be written in place."""
        weights = self.module.state_dict()
        shared = {StorageWeakRef(w.untyped_storage()): w for w in weights.values()}
        for name, tensor in marked.items():
            if tensor.made in shared:
                self._places[name] = tensor.whole(shared.pop(tensor.made))
        # Some models set a row of what they load to zero, each time.
        altered = not all(marked[name].is_held_by(place) for name, place in self._places.items())
        copied = {n: w for n, w in weights.items() if StorageWeakRef(w.untyped_storage()) in shared}
        unfilled = {_storage(w): w.numel() for w in copied.values()}
        for name, part in _reverted(self.module, copied).items():
            is_new = name in marked and name not in self._places and _storage(part) in unfilled
            if is_new and marked[name].is_held_by(part) and _has_rows(part):
                unfilled[_storage(part)] -= part.numel()
                self._places[name] = part
        for name, tensor in marked.items():
            if name not in self._places:
                self._places[name] = tensor[...]
        # Of the rest, what does not depend on the checkpoint is as transformers initialises it, and stays so.
        rest = {n: w.clone() for n, w in copied.items() if unfilled[_storage(w)] > 0}
        if not rest:
            return altered
        for name, place in self._places.items():
            place.copy_(marked[name].high - place.float())  # other marks
        again = self._load(self._places).state_dict()
        return altered or any(not torch.equal(again[n], w) for n, w in rest.items())


class _Marked:
    """A tensor of a plan that is made when it is asked for, as the tensors of files are.

    It is filled with numbers that tell it from others and survive any cast. Without such marks transformers
    would, besides, tie weights that are equal only as long as they are empty.
    """

    def __init__(self, tensor: TensorPlan, number: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = tensor.shape
        self.dtype = dtype if tensor.dtype.is_floating_point else tensor.dtype
        self.device = device
        self.made: StorageWeakRef | None = None
        """The memory of what was made last, which may be gone."""
        self._number = number

    @property
    def high(self) -> int:
        """The largest mark; every dtype holds it exactly."""
        return 1 if self.dtype is torch.bool else 15

    def __getitem__(self, _: object) -> Tensor:
        """All of it, newly made; there is no other index."""
        made = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        self.made = StorageWeakRef(made.untyped_storage())
        marks = self._marks(made)
        for part in made.view(-1).split(_MARKS):
            part.copy_(marks[: part.numel()])
        return made

    def whole(self, weight: Tensor) -> Tensor:
        """The tensor in whose memory ``weight`` lies."""
        return weight.as_strided(self.shape, torch.empty(self.shape, device="meta").stride(), 0)

    def is_held_by(self, place: Tensor) -> bool:
        """Whether ``place`` is of the shape and holds the marks."""
        if place.shape != self.shape:
            return False
        marks = self._marks(place)
        return all(torch.equal(part, marks[: part.numel()]) for part in place.reshape(-1).split(_MARKS))

    def _marks(self, place: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self._number)
        marks = torch.randint(0, self.high + 1, (min(place.numel(), _MARKS),), generator=generator)
        return marks.to(place.device, place.dtype)


def _key(plan: MergePlan, dtype: torch.dtype) -> tuple[Any, ...]:
    shapes = tuple((t.name, t.shape) for t in plan.tensors)
    return dtype, json.dumps(plan.config, sort_keys=True), shapes


def _reverted(module: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` under the names and in the layout of the files they were loaded from, as views.

    What is returned is a guess, to be checked by what it holds: transformers' way back is meant for saving.
    """
    if not weights:
        return {}
    from transformers.core_model_loading import revert_weight_conversion

    try:
        with Uncopied():
            reverted: dict[str, Tensor] = revert_weight_conversion(module, dict(weights))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError):
        return {}
    return reverted


def _has_rows(part: Tensor) -> bool:
    """Whether ``part`` can be written as rows."""
    try:
        rows_of(part)
    except RuntimeError:  # dimensions that no stride spans
        return False
    return True


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
