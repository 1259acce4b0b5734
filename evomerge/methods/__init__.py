"""How numbers combine: the merge methods. Importing this package registers all of them."""

from evomerge.methods import interpolation, task_arithmetic
from evomerge.methods._kernels import ROW_BLOCK, Chunk, Kernel, Measure
from evomerge.methods._random import key_of
from evomerge.methods._registry import (
    Base,
    MergeMethod,
    Parameter,
    PerModel,
    Range,
    get_method,
    merge_method,
    methods,
)

__all__ = [
    "ROW_BLOCK",
    "Base",
    "Chunk",
    "Kernel",
    "Measure",
    "MergeMethod",
    "Parameter",
    "PerModel",
    "Range",
    "get_method",
    "interpolation",
    "key_of",
    "merge_method",
    "methods",
    "task_arithmetic",
]
