"""What touches weights: chunks of tensors, and the operations on them in up to three implementations."""

from evomerge.kernels.chunks import ROW_BLOCK, Chunk, Chunks, Kernel, Measure, nothing
from evomerge.kernels.cpu.calls import compiled
from evomerge.kernels.digest import Digest
from evomerge.kernels.dispatch import Destination, InMemory, Sink, write_rows
from evomerge.kernels.reference.random_masks import key_of

__all__ = [
    "ROW_BLOCK",
    "Chunk",
    "Chunks",
    "Destination",
    "Digest",
    "InMemory",
    "Kernel",
    "Measure",
    "Sink",
    "compiled",
    "key_of",
    "nothing",
    "write_rows",
]
