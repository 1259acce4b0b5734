"""How numbers combine: the merge methods. Importing this package registers all of them."""

from evomerge.methods import interpolation, selection, task_arithmetic
from evomerge.methods._chunks import ROW_BLOCK, Chunk, Chunks, Kernel, Measure, nothing
from evomerge.methods._digest import Digest
from evomerge.methods._native import compiled
from evomerge.methods._output import Destination, InMemory, Sink, write_rows
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
    "Chunks",
    "Destination",
    "Digest",
    "InMemory",
    "Kernel",
    "Measure",
    "MergeMethod",
    "Parameter",
    "PerModel",
    "Range",
    "Sink",
    "compiled",
    "get_method",
    "interpolation",
    "key_of",
    "merge_method",
    "methods",
    "nothing",
    "selection",
    "task_arithmetic",
    "write_rows",
]
