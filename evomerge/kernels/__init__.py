"""What touches weights: the operations that merge methods are made of, in up to three implementations.

``operations`` is the table of them, ``dispatch`` the one place that chooses; ``reference`` defines them in
torch, ``cpu`` has them in numba and ``gpu`` in Triton. ``chunks`` says what they work on.
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
    line_weighted_sum,
    magnitudes,
    masked_sum,
    nearswap,
    nothing,
    ram,
    row_grams,
    sce,
    task_gram,
    variances,
    weighted_sum,
)
from evomerge.kernels.reference.arcee_fusion import Importance
from evomerge.kernels.reference.line_coefficients import LineCoefficients, stable_coefficients
from evomerge.kernels.reference.linear_combinations import LineGrams
from evomerge.kernels.reference.masked_sum import Mask, MaskedSum, Trim
from evomerge.kernels.reference.ram import Ram
from evomerge.kernels.reference.random_masks import key_of
from evomerge.kernels.reference.ranks import Cut, Histogram
from evomerge.kernels.reference.sce import VarianceCut, Variances

__all__ = [
    "KERNELS",
    "MEASURES",
    "ROW_BLOCK",
    "Chunk",
    "Chunks",
    "Cut",
    "Destination",
    "Digest",
    "Histogram",
    "Importance",
    "InMemory",
    "InputMeasure",
    "Kernel",
    "LineCoefficients",
    "LineGrams",
    "Mask",
    "MaskedSum",
    "Ram",
    "ReferenceKernel",
    "Sink",
    "Trim",
    "VarianceCut",
    "Variances",
    "arcee_fusion",
    "chunk_elements",
    "column_grams",
    "gram",
    "importance",
    "key_of",
    "line_weighted_sum",
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
    "weighted_sum",
    "write_rows",
]
