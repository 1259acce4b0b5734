"""The merge methods. Importing this package registers all of them."""

from evomerge.methods import interpolation, selection, task_arithmetic
from evomerge.methods.registry import (
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
    "Base",
    "MergeMethod",
    "Parameter",
    "PerModel",
    "Range",
    "get_method",
    "interpolation",
    "merge_method",
    "methods",
    "selection",
    "task_arithmetic",
]
