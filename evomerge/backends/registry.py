"""The backends by name."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.backends.resident import ModelSettings, ResidentModel
from evomerge.errors import UserError, did_you_mean
from evomerge.registry import Registry

__all__ = ["BACKENDS", "MakeModel", "resident_model"]

MakeModel = Callable[[ModelSettings], ResidentModel]
"""Opens the models of the settings; imports its library when called.

Raises ``UserError`` where a model, the device or an installation is wrong."""


def _transformers(settings: ModelSettings) -> ResidentModel:
    from evomerge.backends.pooled_lm import PooledModel
    from evomerge.backends.transformers_model import TransformersModel

    return TransformersModel.of(settings, PooledModel)


def _lm_eval(settings: ModelSettings) -> ResidentModel:
    from evomerge.backends.transformers_lm import LoadedModel
    from evomerge.backends.transformers_model import TransformersModel

    return TransformersModel.of(settings, LoadedModel)


def _vllm(settings: ModelSettings) -> ResidentModel:
    from evomerge.backends.vllm_model import VllmModel

    return VllmModel.of(settings)


BACKENDS: Registry[MakeModel] = Registry("backend", "evomerge.backends")
"""Every registered backend by name."""

BACKENDS.add("transformers", _transformers)
BACKENDS.add("lm_eval", _lm_eval)
BACKENDS.add("vllm", _vllm)


def resident_model(backend: str, settings: ModelSettings) -> ResidentModel:
    """The resident model of ``backend``.

    Raises:
        UserError: There is no such backend, or what ``MakeModel`` raises.
    """
    if backend not in BACKENDS:
        raise UserError("backend", f"there is no backend {backend!r}", did_you_mean(backend, BACKENDS))
    return BACKENDS[backend](settings)
