"""The operations for GPUs: each input is read once, the output written once; Triton compiles ``triton_*``.

Modules are called like those of the reference, and their functions too. What is missing here (SCE, ranks in
rows, L1 norms of trimmed task vectors, amplified changes) is left to the reference.
"""

from evomerge.kernels.gpu import arcee_fusion, launch, linear_combinations, masked_sum, nearswap, ram

__all__ = ["arcee_fusion", "launch", "linear_combinations", "masked_sum", "nearswap", "ram"]
