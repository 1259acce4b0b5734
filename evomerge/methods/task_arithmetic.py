"""Sparsify task vectors, then combine them: the generalised task arithmetic.

Seven methods from three sparsifiers (largest magnitudes, all but the outliers, random) with and without an
election of signs; the table in the documentation of merge methods has their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from evomerge.kernels import (
    Histogram,
    InputMeasure,
    Mask,
    MaskedSum,
    Trim,
    key_of,
    magnitudes,
    masked_sum,
    nothing,
)
from evomerge.methods.registry import Base, Bound, PerModel, Range, merge_method

_Weight = Annotated[PerModel, Range("factor of the task vector")]
_Density = Annotated[PerModel, Range("share of the task vector's elements kept", 0, 1)]
_Trim = Annotated[PerModel, Range("share of the task vector's elements kept; above 0, one at least", 0, 1)]
_Gamma = Annotated[PerModel, Range("share of the largest elements dropped", 0, 1)]
_Epsilon = Annotated[PerModel, Range("keep probability is density +- epsilon, by rank in the row", 0, 1)]
_Normalize = Annotated[bool, Range("divide by the weights that took part")]
_Lambda = Annotated[float, Range("factor of the sum of the task vectors")]
_Rescale = Annotated[bool, Range("give a sparsified task vector its L1 norm back")]
_RandomRescale = Annotated[
    bool | str,
    Range(
        "true = give the task vector its L1 norm back; ours: divide by the density",
        words=("inverse_density",),
    ),
]
_Int8 = Annotated[bool, Range("accepted for the dialect; has no effect on the numbers")]
_Seed = Annotated[int, Range("seed of the random mask", 0)]

Histograms = tuple[Histogram, ...]


@dataclass(frozen=True)
class _Combine:
    """How sparsified task vectors are put together."""

    consensus: bool
    normalize: bool
    lambda_: float
    rescale: bool

    def of(self, weight: PerModel, masks: tuple[Mask, ...]) -> MaskedSum:
        return MaskedSum(weight, masks, self.lambda_, self.consensus, self.normalize, self.rescale)


def _measure(parameters: Bound) -> InputMeasure:
    """With every density at 1 nothing is trimmed and nothing needs to be measured."""
    return magnitudes if any(density < 1 for density in parameters["density"]) else nothing


def _end(consensus: bool) -> str:
    return "elect a sign per element and sum what agrees with it" if consensus else "sum them"


# --------------------------------------------------------------------------- by magnitude


def _interval(histogram: Histogram, first: int, last: int, *, rescale: bool) -> Mask:
    """Keeps the ranks from ``first`` to ``last`` by magnitude; 0 is the largest."""
    if last <= first:
        return Mask(empty=True)
    trim = Trim(
        last=histogram.cutoff(last, with_l1=rescale),
        first=histogram.cutoff(first, with_l1=rescale) if first > 0 else None,
    )
    return Mask(trim=trim, l1=histogram.l1() if rescale else 0.0)


def _largest(density: float, elements: int) -> int:
    """How many elements a trim by magnitude keeps: one at least, as in the dialect, unless density is 0."""
    return max(1, int(density * elements)) if density > 0 else 0


@merge_method(
    "ties",
    source="Yadav et al. 2023, arXiv:2306.01708",
    measure=_measure,
    kernel=masked_sum,
    base=Base.REQUIRED,
)
def ties(  # noqa: PLR0913 (one argument is one parameter of the recipe)
    histograms: Histograms | None,
    *,
    weight: _Weight,
    density: _Trim = (1.0,),
    normalize: _Normalize = True,
    lambda_: _Lambda = 1.0,
    rescale: _Rescale = False,
    int8_mask: _Int8 = False,  # noqa: ARG001
) -> MaskedSum:
    """Trim each task vector to its largest elements, elect a sign per element, sum what agrees with it."""
    how = _Combine(consensus=True, normalize=normalize, lambda_=lambda_, rescale=rescale)
    if histograms is None:
        return how.of(weight, (Mask(),) * len(weight))
    masks = tuple(
        Mask() if rho >= 1 else _interval(h, 0, _largest(rho, h.elements), rescale=rescale)
        for h, rho in zip(histograms, density, strict=True)
    )
    return how.of(weight, masks)


def _inner(histogram: Histogram, density: float, gamma: float, *, rescale: bool) -> Mask:
    """All but the ``gamma`` largest and as many of the smallest as leave ``density``."""
    n = histogram.elements
    top, kept = int(gamma * n), int(density * n)
    bottom = n - kept - top
    if bottom < 0:
        top, bottom = top + bottom, 0
    return _interval(histogram, top, n - bottom, rescale=rescale)


def _breadcrumbs(name: str, *, consensus: bool) -> None:
    def breadcrumbs(  # noqa: PLR0913 (one argument is one parameter of the recipe)
        histograms: Histograms | None,
        *,
        weight: _Weight,
        density: _Density = (1.0,),
        gamma: _Gamma = (0.01,),
        normalize: _Normalize = False,
        lambda_: _Lambda = 1.0,
        rescale: _Rescale = False,
        int8_mask: _Int8 = False,  # noqa: ARG001
    ) -> MaskedSum:
        how = _Combine(consensus=consensus, normalize=normalize, lambda_=lambda_, rescale=rescale)
        if histograms is None:
            return how.of(weight, (Mask(),) * len(weight))
        masks = tuple(
            Mask() if rho >= 1 else _inner(h, rho, share, rescale=rescale)
            for h, rho, share in zip(histograms, density, gamma, strict=True)
        )
        return how.of(weight, masks)

    breadcrumbs.__doc__ = (
        f"Drop the largest and the smallest elements of each task vector, {_end(consensus)}."
    )
    merge_method(
        name,
        source="Davari and Belilovsky 2023, arXiv:2312.06795",
        measure=_measure,
        kernel=masked_sum,
        base=Base.REQUIRED,
    )(breadcrumbs)


_breadcrumbs("breadcrumbs", consensus=False)
_breadcrumbs("breadcrumbs_ties", consensus=True)


# --------------------------------------------------------------------------- random masks


def _stochastic(density: float, epsilon: float, key: int, rescale: bool | str) -> Mask:
    """Keeps each element with probability ``density``, +- ``epsilon`` by its rank."""
    if density >= 1:
        return Mask()
    factor = 1 / density if density > 0 and rescale == "inverse_density" else 1.0
    return Mask(empty=density <= 0, probability=density, spread=epsilon, key=key, factor=factor)


def _dare(name: str, *, consensus: bool) -> None:
    def dare(  # noqa: PLR0913 (one argument is one parameter of the recipe)
        _: None,
        *,
        key: int,
        weight: _Weight,
        density: _Density = (1.0,),
        normalize: _Normalize = False,
        lambda_: _Lambda = 1.0,
        rescale: _RandomRescale = True,
        int8_mask: _Int8 = False,  # noqa: ARG001
        seed: _Seed = 0,
    ) -> MaskedSum:
        how = _Combine(consensus=consensus, normalize=normalize, lambda_=lambda_, rescale=rescale is True)
        masks = tuple(_stochastic(rho, 0.0, key_of(seed, key, d), rescale) for d, rho in enumerate(density))
        return how.of(weight, masks)

    dare.__doc__ = f"Drop elements of each task vector at random, restore its L1 norm, {_end(consensus)}."
    merge_method(name, source="Yu et al. 2023, arXiv:2311.03099", kernel=masked_sum, base=Base.REQUIRED)(dare)


def _check_epsilon(parameters: Bound) -> None:
    for density, epsilon in zip(parameters["density"], parameters["epsilon"], strict=True):
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            raise ValueError(f"density {density:g} +- epsilon {epsilon:g} must stay between 0 and 1")


def _della(name: str, *, consensus: bool) -> None:
    def della(  # noqa: PLR0913 (one argument is one parameter of the recipe)
        _: None,
        *,
        key: int,
        weight: _Weight,
        density: _Density = (1.0,),
        epsilon: _Epsilon = (0.15,),
        normalize: _Normalize = consensus,
        lambda_: _Lambda = 1.0,
        rescale: _RandomRescale = True,
        int8_mask: _Int8 = False,  # noqa: ARG001
        seed: _Seed = 0,
    ) -> MaskedSum:
        how = _Combine(consensus=consensus, normalize=normalize, lambda_=lambda_, rescale=rescale is True)
        masks = tuple(
            _stochastic(rho, eps, key_of(seed, key, d), rescale)
            for d, (rho, eps) in enumerate(zip(density, epsilon, strict=True))
        )
        return how.of(weight, masks)

    della.__doc__ = (
        "Drop elements of each task vector at random, small ones more often, restore its L1 norm, "
        f"{_end(consensus)}."
    )
    merge_method(
        name,
        source="Deep et al. 2024, arXiv:2406.11617",
        kernel=masked_sum,
        base=Base.REQUIRED,
        check=_check_epsilon,
    )(della)


_dare("dare_linear", consensus=False)
_dare("dare_ties", consensus=True)
_della("della_linear", consensus=False)
_della("della", consensus=True)
