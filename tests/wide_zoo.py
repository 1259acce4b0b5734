"""The models of ``experiments/zoo`` with heads of 64 dimensions, as vLLM needs; the same functions."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from safetensors.torch import load_file, save_file
from support import ZOO
from torch import Tensor

HEAD, WIDE = 16, 64


@cache
def wide_zoo() -> Path:
    """A folder with ``base``, ``add`` and ``sort``; made once per process."""
    folder = Path(mkdtemp(prefix="evomerge-wide-zoo-"))
    for name in ("base", "add", "sort"):
        widen(ZOO / name, folder / name)
    return folder


def widen(source: Path, target: Path) -> Path:
    """A copy of the Llama in ``source`` with heads of ``WIDE`` dimensions, most of which do nothing.

    Frequencies of rotary embeddings go with the position in a head: dimension ``i`` of ``HEAD`` turns as
    dimension ``i * WIDE / HEAD`` of ``WIDE`` does. Attention is divided by the root of the head's size.
    """
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    save_file({n: _wide(n, t) for n, t in tensors.items()}, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "head_dim": WIDE}))
    return target


def _wide(name: str, weight: Tensor) -> Tensor:
    if not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")):
        return weight
    by_output = not name.endswith("o_proj.weight")
    narrow = weight if by_output else weight.T
    heads, width = narrow.shape[0] // HEAD, narrow.shape[1]
    wide = torch.zeros(heads, WIDE, width, dtype=weight.dtype)
    wide[:, _places()] = narrow.reshape(heads, HEAD, width)
    if name.endswith("q_proj.weight"):
        wide *= (WIDE / HEAD) ** 0.5
    flat = wide.reshape(heads * WIDE, width)
    return (flat if by_output else flat.T).contiguous()


def _places() -> Tensor:
    half = torch.arange(HEAD // 2) * (WIDE // HEAD)
    return torch.cat([half, half + WIDE // 2])
