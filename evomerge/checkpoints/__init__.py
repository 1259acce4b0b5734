"""Where tensors are: model folders and hub models, read and written."""

from evomerge.checkpoints.checkpoint import DTYPES, Checkpoint, TensorInfo, dtype_name, open_checkpoint
from evomerge.checkpoints.references import Reference, locate, parse_reference
from evomerge.checkpoints.writer import CheckpointWriter

__all__ = [
    "DTYPES",
    "Checkpoint",
    "CheckpointWriter",
    "Reference",
    "TensorInfo",
    "dtype_name",
    "locate",
    "open_checkpoint",
    "parse_reference",
]
