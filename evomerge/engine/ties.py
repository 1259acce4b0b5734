"""Embeddings that are tied in some models and untied in others: a tied head counts as the embedding."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from evomerge.engine.configuration import is_tied, text_parts
from evomerge.engine.model_names import ModelNames, ties_embeddings
from evomerge.engine.spelling import CanonicalTensors
from evomerge.errors import CheckpointError

__all__ = ["Ties", "with_ties"]


def with_ties(config: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """``config`` of a model whose output embeddings are tied to those of the input, or are not."""
    changed = copy.deepcopy(dict(config))
    for part in text_parts(changed):
        if part is changed or "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = tied
    return changed


class Ties:
    """One set of embeddings for all models. ``config`` is that of the output, ``warnings`` say what changed.

    A model that stores two equal embeddings ties them. One that stores two different ones does not, as
    transformers loads it, whatever its configuration says. If one model is untied, the output is untied, and
    in the others the embedding is used for both. Otherwise the output has what all models store, or what the
    model ``config_source`` stores.
    """

    def __init__(self, models: Mapping[str, CanonicalTensors], config_source: str) -> None:
        self.config: Mapping[str, Any] = models[config_source].checkpoint.config
        self.warnings: list[str] = []
        self._models = models
        self._config_source = config_source
        self._tied = _pairs(with_ties(self.config, tied=True))
        self._untied = _pairs(with_ties(self.config, tied=False))

    def settle(self, *, drop_equal: bool = False) -> bool:
        """Adds and drops tensors of the models; returns whether anything changed.

        With ``drop_equal`` second copies are dropped even where all models have them.
        """
        is_changed = False
        for names in _components(self._tied):
            stored = {m: [n for n in names if n in s.origins] for m, s in self._models.items()}
            is_one = len({tuple(held) for held in stored.values()}) == 1
            if is_one and all(len(held) < 2 for held in stored.values()):
                continue
            values = {m: self._values(m, held) for m, held in stored.items()}
            kept = self._names_to_keep(names, stored, values)
            if is_one and not self._is_untied_now(values) and not drop_equal:
                continue
            for model in self._models:
                is_changed |= self._give(model, stored[model], kept, has_own_head=len(values[model]) > 1)
        return is_changed or self.config is not self._models[self._config_source].checkpoint.config

    def _is_untied_now(self, values: Mapping[str, Sequence[Sequence[str]]]) -> bool:
        return any(len(v) > 1 for v in values.values())

    def _ties(self, model: str) -> Mapping[str, str]:
        config = self._models[model].checkpoint.config
        tied = ties_embeddings(config)
        return self._untied if (is_tied(config) if tied is None else tied) is False else self._tied

    def _values(self, model: str, stored: Sequence[str]) -> list[list[str]]:
        """The names that ``model`` stores, those of one value together."""
        ties = self._ties(model)
        values: list[list[str]] = []
        for name in stored:
            same = next((v for v in values if self._are_one(model, v[0], name, ties)), None)
            if same is None:
                values.append([name])
            else:
                same.append(name)
        if len(values) > 1 and ties is self._tied and ties != self._untied:
            first, second = (self._models[model].own[v[0]] for v in values[:2])
            self.warnings.append(
                f"{model}: its configuration ties {second} to {first}, but it stores two different ones; "
                "it counts as untied, as transformers loads it"
            )
        return values

    def _are_one(self, model: str, one: str, other: str, ties: Mapping[str, str]) -> bool:
        if ties.get(one, one) != ties.get(other, other):
            return False
        spelled = self._models[model]
        if spelled.infos[one] != spelled.infos[other]:
            return False
        return torch.equal(*(spelled.checkpoint.read(spelled.origins[n].name) for n in (one, other)))

    def _names_to_keep(
        self,
        names: Sequence[str],
        stored: Mapping[str, Sequence[str]],
        values: Mapping[str, Sequence[Sequence[str]]],
    ) -> list[str]:
        """What the output stores of ``names``, which may be tied."""
        untied = [m for m, v in values.items() if len(v) > 1]
        if not untied:
            in_all = [n for n in names if all(n in held for held in stored.values())]
            return in_all[:1] or list(stored[self._config_source][:1])
        kept = list(dict.fromkeys(v[0] for m in untied for v in values[m]))
        # What has no source in an untied configuration is stored as well.
        sources = {self._untied.get(n, n) for n in kept}
        for name in names:
            if self._untied.get(name, name) not in sources:
                kept.append(name)
                sources.add(self._untied.get(name, name))
        if self._untied != self._tied and self._ties(self._config_source) is self._tied:
            self.config = with_ties(self.config, tied=False)
        tied = [m for m in self._models if m not in untied]
        if tied:
            self.warnings.append(
                f"the output embeddings of {', '.join(untied)} are not those of the input: the result is "
                f"untied, too, and the embeddings of {', '.join(tied)} count for both"
            )
        return kept

    def _give(self, model: str, stored: Sequence[str], kept: Sequence[str], *, has_own_head: bool) -> bool:
        """Makes ``model`` have the embeddings ``kept``, and no others of those it stores."""
        spelled = self._models[model]
        ties = self._ties(model)
        is_changed = False
        for name in kept:
            if name in spelled.origins:
                continue
            source = next((n for n in stored if ties.get(n, n) == ties.get(name, name)), None)
            if source is None and has_own_head:  # of an encoder and a decoder, which still share one
                source = next((n for n in stored if n == self._tied.get(name)), None)
            if source is None:
                continue  # it lacks the tensor, which is reported later
            spelled.origins[name], spelled.infos[name] = spelled.origins[source], spelled.infos[source]
            spelled.own[name] = name
            is_changed = True
        for name in stored:
            if name not in kept and any(k in spelled.origins for k in kept):
                del spelled.origins[name], spelled.infos[name], spelled.own[name]
                is_changed = True
        return is_changed


def _pairs(config: Mapping[str, Any]) -> dict[str, str]:
    try:
        return ModelNames.of(config).tied
    except CheckpointError:
        return {}


def _components(pairs: Mapping[str, str]) -> Iterable[list[str]]:
    """Names that are tied to one another, the source first."""
    found: dict[str, list[str]] = {}
    for target, source in pairs.items():
        found.setdefault(source, [source]).append(target)
    return found.values()
