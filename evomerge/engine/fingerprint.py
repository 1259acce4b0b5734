"""Fingerprints of weights: 128 bits of the digests of all tensors, with their names, dtypes and shapes.

They detect accidental changes; they are not collision-resistant against an attacker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from evomerge.engine.plan import TensorPlan
from evomerge.errors import CandidateError, FailureKind
from evomerge.kernels import Digest

__all__ = ["check_finite", "fingerprint"]


def fingerprint(tensors: Sequence[TensorPlan], digests: Sequence[Digest]) -> str:
    """One digest of a whole set of weights: names, dtypes, shapes and bytes; the order does not matter.

    ``digests`` are those of ``tensors``, on one device. This is where the device is waited for.

    Raises:
        CandidateError: A tensor holds NaN or infinity.
    """
    states = torch.stack([digest.state for digest in digests]).tolist() if digests else []
    lines = []
    for tensor, (first, second, spoiled) in zip(tensors, states, strict=True):
        _check(tensor, spoiled)
        digest = f"{first & _MASK:016x}{second & _MASK:016x}"
        lines.append(f"{tensor.name} {tensor.dtype} {list(tensor.shape)} {digest}\n")
    # A name may hold any character, so the other fields come last in the line.
    return hashlib.blake2b("".join(sorted(lines)).encode(), digest_size=16).hexdigest()


def check_finite(tensor: TensorPlan, digest: Digest) -> None:
    """Check that a tensor is finite, which costs nothing on a CPU.

    Raises:
        CandidateError: It holds NaN or infinity.
    """
    _check(tensor, digest.state.numpy()[2])


_MASK = 0xFFFF_FFFF_FFFF_FFFF


def _check(tensor: TensorPlan, spoiled: Any) -> None:
    if spoiled:
        raise CandidateError(FailureKind.NON_FINITE_WEIGHTS, f"tensor {tensor.name!r} holds NaN or infinity")
