"""The definition of every operation, in torch, for any device; it needs no other implementation.

One module for each kernel: ``apply`` makes the rows of a chunk, ``reduce`` is the pass before it, where
there is one; beside them the measures and the types of the numbers. What several share is in ``ranks`` (exact
cutoffs), ``random_masks``, ``vector_coefficients`` and ``digest``.
"""

from evomerge.kernels.reference import (
    arcee_fusion,
    digest,
    linear_combinations,
    masked_sum,
    nearswap,
    ram,
    sce,
)

__all__ = ["arcee_fusion", "digest", "linear_combinations", "masked_sum", "nearswap", "ram", "sce"]
