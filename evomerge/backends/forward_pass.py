"""One forward pass of a batch of trees; the output head reads the wanted positions only.

Shape letters: B = rows, W = tokens of a row, P = tokens of the prefix, N = wanted positions, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from evomerge.backends.batches import Batch
from evomerge.backends.shared_prefixes import Prefix

__all__ = ["ForwardPass", "wanted_positions"]


class ForwardPass:
    """Runs batches through ``model``, and keeps the keys and values of the prefix that is in use."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._caches: dict[Prefix, DynamicCache] = {}

    def logits(self, batch: Batch, wanted: Sequence[int]) -> Tensor:
        """The logits at ``wanted`` positions of the batch's rows laid end to end; (N, V).

        What it raises where memory runs out is torch's.
        """
        return self._run(batch, wanted, keep=False)[0]

    def logits_and_cache(self, batch: Batch, wanted: Sequence[int]) -> tuple[Tensor, DynamicCache]:
        """As ``logits``; also the keys and values of the rows, those of the prefix first."""
        return self._run(batch, wanted, keep=True)

    def _run(self, batch: Batch, wanted: Sequence[int], *, keep: bool) -> tuple[Tensor, DynamicCache]:
        device = self._model.device
        past = self._cache(batch.prefix)
        cache = DynamicCache() if past is None else _expanded(past, len(batch.rows))
        inputs: dict[str, Any] = {} if batch.is_plain else self._tree_inputs(batch)
        if keep or past is not None:
            inputs["past_key_values"] = cache
        ids = torch.from_numpy(_ids(batch)).to(device)
        where = torch.tensor(wanted, device=device)
        with _only(self._model.get_output_embeddings(), where) as narrowed:
            logits = self._model(ids, use_cache="past_key_values" in inputs, **inputs).logits
        logits = logits.reshape(-1, logits.shape[-1])
        return (logits if narrowed else logits[where]), cache

    def _tree_inputs(self, batch: Batch) -> dict[str, Any]:
        known = 0 if batch.prefix is None else batch.prefix.end
        visible, positions = _structure(batch, known)
        device, dtype = self._model.device, self._model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        mask.masked_fill_(torch.from_numpy(~visible).to(device), torch.finfo(dtype).min)
        return {
            "attention_mask": mask[:, None],
            "position_ids": torch.from_numpy(positions).to(device),
        }

    def _cache(self, prefix: Prefix | None) -> DynamicCache | None:
        """The keys and values of ``prefix``; only it and its parents are kept."""
        if prefix is None:
            self._caches.clear()
            return None
        chain = [prefix]
        while chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        self._caches = {each: cache for each, cache in self._caches.items() if each in chain}
        for each in reversed(chain):
            if each not in self._caches:
                self._caches[each] = self._read(each)
        return self._caches[prefix]

    def _read(self, prefix: Prefix) -> DynamicCache:
        device, dtype = self._model.device, self._model.dtype
        ids = torch.from_numpy(prefix.tokens[prefix.begin :].astype(np.int64))[None].to(device)
        inputs: dict[str, Any] = {}
        cache = DynamicCache()
        if prefix.parent is not None:
            cache = _expanded(self._caches[prefix.parent], 1)
            visible = torch.ones(ids.shape[1], prefix.end, dtype=torch.bool, device=device).tril(prefix.begin)
            mask = torch.zeros(visible.shape, dtype=dtype, device=device)
            mask.masked_fill_(~visible, torch.finfo(dtype).min)
            positions = torch.arange(prefix.begin, prefix.end, device=device)[None]
            inputs = {"attention_mask": mask[None, None], "position_ids": positions}
        with _only(self._model.get_output_embeddings(), torch.zeros(1, dtype=torch.long, device=device)):
            self._model(ids, past_key_values=cache, use_cache=True, **inputs)
        return cache


def wanted_positions(batch: Batch) -> Iterator[tuple[int, Any]]:
    """For each sequence of the batch its number, and its wanted positions in the rows laid end to end."""
    for number, row in enumerate(batch.rows):
        start = number * batch.width
        for tree in row:
            for member, output in zip(tree.members, tree.outputs, strict=True):
                yield member, output + start
            start += len(tree)


def _ids(batch: Batch) -> Any:
    """The tokens; (B, W), padded with 0, which no token of a sequence sees."""
    ids = np.zeros((len(batch.rows), batch.width), dtype=np.int64)
    for number, row in enumerate(batch.rows):
        tokens = np.concatenate([tree.tokens for tree in row])
        ids[number, : len(tokens)] = tokens
    return ids


def _structure(batch: Batch, known: int) -> tuple[Any, Any]:
    """Which tokens each token sees, (B, W, P + W), and its position in its sequence, (B, W)."""
    visible = np.zeros((len(batch.rows), batch.width, known + batch.width), dtype=bool)
    visible[:, :, :known] = True
    positions = np.zeros((len(batch.rows), batch.width), dtype=np.int64)
    for number, row in enumerate(batch.rows):
        offset = 0
        for tree in row:
            for segment in tree.segments:
                start, end = offset + segment.start, offset + segment.end
                if segment.parent >= 0:
                    visible[number, start:end] = visible[number, offset + segment.parent]
                triangle = np.tril(np.ones((end - start, end - start), dtype=bool))
                visible[number, start:end, known + start : known + end] = triangle
                positions[number, start:end] = np.arange(segment.depth, segment.depth + end - start)
            offset += len(tree)
        # Padding sees itself: a row of a mask that hides everything makes NaN in some implementations.
        padding = np.arange(offset, batch.width)
        visible[number, padding, known + padding] = True
    return visible, positions


def _expanded(cache: DynamicCache, rows: int) -> DynamicCache:
    """``cache``, of one row, for ``rows`` rows: its tensors are shared, and copied when it grows."""
    copy = DynamicCache()
    layers: Sequence[Any] = cache.layers
    for number, layer in enumerate(layers):
        if layer.keys is None:  # some layers read the keys of others
            copy.layers.append(type(layer)())
            continue
        copy.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
    return copy


@contextmanager
def _only(head: nn.Module | None, where: Tensor) -> Iterator[list[bool]]:
    """Lets ``head`` read the hidden states at ``where`` only, as one row; yields a list that tells it did.

    The rows are contiguous: of a slice torch's bfloat16 product would copy the whole head once per row.
    """
    narrowed: list[bool] = []

    def narrow(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = inputs
        narrowed.append(True)
        return (hidden.reshape(-1, hidden.shape[-1])[where][None], *rest)

    handle = None if head is None else head.register_forward_pre_hook(narrow)
    try:
        yield narrowed
    finally:
        if handle is not None:
            handle.remove()
