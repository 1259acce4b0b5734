"""The operations once more for CPUs, compiled by numba."""
