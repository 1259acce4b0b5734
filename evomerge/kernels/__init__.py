"""The operations on weights that merge methods are made of, in up to three implementations.

``operations`` is the table of them, and ``dispatch`` chooses the implementation; ``reference`` defines them
in torch, ``cpu`` has them in numba and ``gpu`` in Triton. ``chunks`` defines what they work on.
"""

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks
from evomerge.kernels.destinations import Destination, InMemory, Sink
from evomerge.kernels.digest import Digest
from evomerge.kernels.dispatch import chunk_elements, take_measure, write_rows
from evomerge.kernels.operations import (
    KERNELS,
    MEASURES,
    InputMeasure,
    Kernel,
    ReferenceKernel,
    arcee_fusion,
    column_grams,
    gram,
    importance,
    magnitudes,
    masked_sum,
    nearswap,
    nothing,
    ram,
    row_grams,
    sce,
    task_gram,
    variances,
    vector_weighted_sum,
    weighted_sum,
)
from evomerge.kernels.reference.arcee_fusion import Importance
from evomerge.kernels.reference.linear_combinations import VectorGrams
from evomerge.kernels.reference.masked_sum import Mask, MaskedSum, Trim
from evomerge.kernels.reference.ram import Ram
from evomerge.kernels.reference.random_masks import key_of
from evomerge.kernels.reference.ranks import Cutoff, Histogram
from evomerge.kernels.reference.sce import VarianceCutoff, Variances
from evomerge.kernels.reference.vector_coefficients import VectorCoefficients, stable_coefficients

__all__ = [
    "KERNELS",
    "MEASURES",
    "ROW_BLOCK",
    "Chunk",
    "Chunks",
    "Cutoff",
    "Destination",
    "Digest",
    "Histogram",
    "Importance",
    "InMemory",
    "InputMeasure",
    "Kernel",
    "Mask",
    "MaskedSum",
    "Ram",
    "ReferenceKernel",
    "Sink",
    "Trim",
    "VarianceCutoff",
    "Variances",
    "VectorCoefficients",
    "VectorGrams",
    "arcee_fusion",
    "chunk_elements",
    "column_grams",
    "gram",
    "importance",
    "key_of",
    "magnitudes",
    "masked_sum",
    "nearswap",
    "nothing",
    "ram",
    "row_grams",
    "sce",
    "stable_coefficients",
    "take_measure",
    "task_gram",
    "variances",
    "vector_weighted_sum",
    "weighted_sum",
    "write_rows",
]
