"""The operations for CPUs: one pass over memory instead of one per operation; numba compiles ``compiled``.

Same arithmetic, same order, same rounding as the reference: a test compares the bits. Only sums in float64
(Gram matrices, L1 norms, mean squares) are added in another order, their own, which depends on nothing but
the shape. Modules are called like those of the reference, and their functions too.
"""

from evomerge.kernels.cpu import (
    arcee_fusion,
    calls,
    digest,
    linear_combinations,
    masked_sum,
    nearswap,
    ram,
    sce,
)

__all__ = ["arcee_fusion", "calls", "digest", "linear_combinations", "masked_sum", "nearswap", "ram", "sce"]
