"""The dimensions of a search space in Optuna's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evomerge.recipe import Dimension

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["distributions_of"]


def distributions_of(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Optuna's words for the dimensions, for those who look at a study with its tools; not read here."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, BaseDistribution] = {}
    for d in dimensions:
        if d.kind == "float":
            made[d.name] = FloatDistribution(d.low, d.high, log=d.log)
        elif d.kind == "int":
            made[d.name] = IntDistribution(int(d.low), int(d.high))
        else:
            made[d.name] = CategoricalDistribution(d.choices)
    return made
