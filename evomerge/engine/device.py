"""Devices by name."""

from __future__ import annotations

import torch

from evomerge.errors import ExperimentError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> str:
    """``auto`` as the device it stands for; any other name if there is such a device.

    Raises:
        ExperimentError: There is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ExperimentError(
            "device", f"there is no device {name!r}", "Known: auto, cpu, cuda, cuda:N."
        ) from None
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ExperimentError(
            "device", f"{name!r} is not available", f"CUDA devices: {torch.cuda.device_count()}."
        )
    if device.type not in ("cpu", "cuda"):
        raise ExperimentError("device", f"{name!r} is not supported", "Known: auto, cpu, cuda, cuda:N.")
    return name
