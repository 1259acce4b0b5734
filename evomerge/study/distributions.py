"""The dimensions of a search space as Optuna distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evomerge.recipe import Dimension

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["distributions_of"]


def distributions_of(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Optuna distributions of the dimensions, for Optuna's own tools; evomerge does not read them."""
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
