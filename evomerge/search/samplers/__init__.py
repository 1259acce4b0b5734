"""Samplers propose candidates and are told their values. Their state can be rebuilt by replay."""

from evomerge.search.samplers.cma_es import CmaEs, CmaEsSettings
from evomerge.search.samplers.interface import (
    Sampler,
    SamplerPlan,
    SamplerSettings,
    Told,
    Vector,
    Whole,
    check_told,
    free_dimensions,
    is_same_point,
    losses,
)
from evomerge.search.samplers.random_search import RandomSearch, RandomSettings
from evomerge.search.samplers.registry import (
    SAMPLERS,
    first_population,
    make_sampler,
    sampler,
    settings_with_defaults,
)

__all__ = [
    "SAMPLERS",
    "CmaEs",
    "CmaEsSettings",
    "RandomSearch",
    "RandomSettings",
    "Sampler",
    "SamplerPlan",
    "SamplerSettings",
    "Told",
    "Vector",
    "Whole",
    "check_told",
    "first_population",
    "free_dimensions",
    "is_same_point",
    "losses",
    "make_sampler",
    "sampler",
    "settings_with_defaults",
]
