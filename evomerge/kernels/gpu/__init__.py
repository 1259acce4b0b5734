"""The operations once more for GPUs, compiled by Triton."""
