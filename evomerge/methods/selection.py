"""Methods that choose elements by comparing the models with each other."""

from __future__ import annotations

from typing import Annotated

from evomerge import kernels
from evomerge.kernels import Importance, InputMeasure, Ram, VarianceCutoff, Variances, nothing
from evomerge.methods.registry import Base, Bound, Range, merge_method

_Epsilon = Annotated[float, Range("changes up to this size count as none", 0)]


def _sce_measure(parameters: Bound) -> InputMeasure:
    return kernels.variances if parameters["select_topk"] < 1 else nothing


@merge_method(
    "sce",
    source="Wan et al. 2024, arXiv:2408.07990",
    measure=_sce_measure,
    kernel=kernels.sce,
    base=Base.REQUIRED,
)
def sce(
    variances: Variances | None,
    *,
    select_topk: Annotated[
        float, Range("share of the positions kept, by variance over the models", 0, 1)
    ] = 1.0,
) -> VarianceCutoff:
    """Select positions where the models differ most, weight the models by them, erase minorities."""
    if variances is None:
        return VarianceCutoff(None)
    rank = int(variances.nonzero * select_topk)
    return VarianceCutoff(variances.histogram.cutoff(rank)) if rank > 0 else VarianceCutoff(None, empty=True)


@merge_method(
    "nearswap",
    source="alchemonaut 2024: swaps where the models are near",
    kernel=kernels.nearswap,
    base=Base.REQUIRED,
    models=(1, 1),
)
def nearswap(
    _: None, *, t: Annotated[float, Range("distance up to which the other model is taken", 0)]
) -> float:
    """The base, moved towards the other model by at most ``t`` per element."""
    return t


@merge_method(
    "arcee_fusion",
    source="Arcee AI 2025: importance by parameter change and divergence of the rows",
    measure=kernels.importance,
    kernel=kernels.arcee_fusion,
    base=Base.REQUIRED,
    models=(1, 1),
)
def arcee_fusion(importance: Importance) -> Importance:
    """The base, with the other model's change where its importance is an outlier (median + 1.5 IQR)."""
    return importance


@merge_method("ram", source="arXiv:2601.13572, RAM", kernel=kernels.ram, base=Base.REQUIRED, models=(1, None))
def ram(_: None, *, epsilon: _Epsilon = 1e-5) -> Ram:
    """Changes of one model alone are kept, shared ones are averaged over the models that make them."""
    return Ram(epsilon)


@merge_method(
    "ramplus_tl", source="arXiv:2601.13572, RAM+", kernel=kernels.ram, base=Base.REQUIRED, models=(1, None)
)
def ramplus_tl(
    _: None,
    *,
    epsilon: _Epsilon = 1e-5,
    r: Annotated[float, Range("how much unique changes are amplified", 0)] = 0.1,
    alpha: Annotated[float, Range("most that shared changes count against unique ones", 0)] = 0.2,
) -> Ram:
    """RAM, with a model's unique changes amplified by how many of its changes are shared."""
    return Ram(epsilon, r, alpha)
