"""Sparsify task vectors, then combine them: the generalised task arithmetic of TIES, DARE and their kin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from evomerge.methods._kernels import Magnitudes, Mask, MaskedSum, Trim, magnitudes, masked_sum, trim_at
from evomerge.methods._random import key_of
from evomerge.methods._registry import Base, Bound, PerModel, Range, merge_method

_Weight = Annotated[PerModel, Range("factor of the task vector")]
_Density = Annotated[PerModel, Range("share of the task vector's elements kept", 0, 1)]
_Normalize = Annotated[bool, Range("divide by the weights that took part")]
_Lambda = Annotated[float, Range("factor of the sum of the task vectors")]
_Rescale = Annotated[bool, Range("give a sparsified task vector its L1 norm back")]
_Int8 = Annotated[bool, Range("accepted for the dialect; has no effect on the numbers")]
_Seed = Annotated[int, Range("seed of the random mask", 0)]


@dataclass(frozen=True)
class _Combine:
    """How sparsified task vectors are put together."""

    consensus: bool
    normalize: bool
    lambda_: float
    rescale: bool


def _trimmed(density: float) -> bool:
    return density < 1


def _any_trimmed(parameters: Bound) -> bool:
    return any(_trimmed(d) for d in parameters["density"])


def _combined(weight: PerModel, masks: tuple[Mask, ...], how: _Combine) -> MaskedSum:
    return MaskedSum(weight, masks, how.lambda_, how.consensus, how.normalize, how.rescale)


def _largest(histogram: Magnitudes | None, model: int, density: float, *, rescale: bool) -> Mask:
    """The ``int(density * n)`` elements of largest magnitude of one task vector."""
    if histogram is None or not _trimmed(density):
        return Mask()
    rank = int(density * histogram.elements)
    if rank == 0:
        return Mask(empty=True)
    whole = histogram.l1(model, 0) if rescale else 0.0
    return Mask(trim=Trim(last=trim_at(histogram, model, rank, with_l1=rescale)), l1=whole)


@merge_method(
    "ties",
    source="Yadav et al. 2023, arXiv:2306.01708",
    measure=magnitudes,
    measured=_any_trimmed,
    kernel=masked_sum,
    base=Base.REQUIRED,
)
def ties(  # noqa: PLR0913 (one argument is one parameter of the recipe)
    histogram: Magnitudes | None,
    *,
    weight: _Weight,
    density: _Density = (1.0,),
    normalize: _Normalize = True,
    lambda_: _Lambda = 1.0,
    rescale: _Rescale = False,
    int8_mask: _Int8 = False,  # noqa: ARG001
) -> MaskedSum:
    """Trim each task vector to its largest elements, elect a sign per element, sum what agrees with it."""
    how = _Combine(consensus=True, normalize=normalize, lambda_=lambda_, rescale=rescale)
    masks = tuple(_largest(histogram, d, rho, rescale=rescale) for d, rho in enumerate(density))
    return _combined(weight, masks, how)


def _random_masks(density: PerModel, seed: int, key: int) -> tuple[Mask, ...]:
    """Per task vector, each element with probability ``density``, from its own stream."""
    return tuple(
        Mask(probability=rho, key=key_of(seed, key, d)) if 0 < rho < 1 else Mask(empty=rho == 0)
        for d, rho in enumerate(density)
    )


def _dare(name: str, *, consensus: bool) -> Callable[..., MaskedSum]:
    """DARE is one method with and without the sign election."""

    def dare(  # noqa: PLR0913 (one argument is one parameter of the recipe)
        _: None,
        *,
        key: int,
        weight: _Weight,
        density: _Density = (1.0,),
        normalize: _Normalize = False,
        lambda_: _Lambda = 1.0,
        rescale: _Rescale = True,
        int8_mask: _Int8 = False,  # noqa: ARG001
        seed: _Seed = 0,
    ) -> MaskedSum:
        how = _Combine(consensus=consensus, normalize=normalize, lambda_=lambda_, rescale=rescale)
        return _combined(weight, _random_masks(density, seed, key), how)

    end = "elect a sign per element and sum what agrees with it" if consensus else "sum them"
    dare.__doc__ = f"Drop elements of each task vector at random, restore its L1 norm, {end}."
    registered: Callable[..., MaskedSum] = merge_method(
        name, source="Yu et al. 2023, arXiv:2311.03099", kernel=masked_sum, base=Base.REQUIRED
    )(dare)
    return registered


dare_linear = _dare("dare_linear", consensus=False)
dare_ties = _dare("dare_ties", consensus=True)
