"""Linear combinations on a GPU."""

from __future__ import annotations

from torch import Tensor

from evomerge.kernels.chunks import Chunk, Target
from evomerge.kernels.gpu.launch import Launch, float_bits
from evomerge.kernels.reference.vector_coefficients import VectorCoefficients

__all__ = ["can_vector_weighted_sum", "can_weighted_sum", "vector_weighted_sum", "weighted_sum"]


def can_weighted_sum(_: Chunk, c_M: Tensor) -> bool:
    """Whether a coefficient is not 0."""
    return any(c_M.tolist())


def weighted_sum(chunk: Chunk, c_M: Tensor, _: None, target: Target) -> None:
    """See the reference."""
    used = [(x_RC, c) for x_RC, c in zip(chunk.x_MRC, c_M.tolist(), strict=True) if c != 0]
    launch = Launch([x_RC for x_RC, _ in used], [float_bits(c) for _, c in used], target.dtype)
    no_vectors = (launch.coefficients,)
    launch.write("weighted_sum", target, no_vectors, COUNT=len(used), VECTORS=0)


def can_vector_weighted_sum(chunk: Chunk, vectors: VectorCoefficients) -> bool:
    """All but vectors that are added in float64, and columns of more than two dimensions."""
    if vectors.wide_L is not None or (vectors.per_column and chunk.period > 1):
        return False
    return vectors.c_LM.shape[0] > 1 or can_weighted_sum(chunk, vectors.c_LM[0])


def vector_weighted_sum(chunk: Chunk, vectors: VectorCoefficients, reduction: None, target: Target) -> None:
    """See the reference."""
    if vectors.c_LM.shape[0] == 1:
        weighted_sum(chunk, vectors.c_LM[0], reduction, target)
        return
    c_LM = vectors.c_LM.float().contiguous().to(chunk.device, non_blocking=True)
    launch = Launch(chunk.x_MRC, (), target.dtype)
    along = 2 if vectors.per_column else 1
    launch.write("weighted_sum", target, (c_LM,), COUNT=len(chunk.x_MRC), VECTORS=along)
