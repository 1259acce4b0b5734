"""A small experiment on the zoo."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

from support import ROOT, ZOO

Cli = Callable[..., subprocess.CompletedProcess[str]]
EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "models": {name: str(ZOO / name) for name in ("base", "add", "reverse", "sort")},
    "recipe": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "*", "parameters": {"weight": {"float": [0, 1.5], "init": 0.5}}}],
        "dtype": "bfloat16",
    },
    "fitness": {
        "include_path": str(ROOT / "fitness" / "zoo"),
        "tasks": ["zoo_add", "zoo_sort"],
        "splits": {"search": 20, "validation": 20, "test": 20},
        "batch_size": 32,
    },
    "search": {"trials": 8, "population": 4, "seed": 3, "top_k": 2},
    "workers": {"dtype": "float32"},
}


def changed(place: str, value: Any) -> dict[str, Any]:
    """The experiment with one dotted field set (or removed, with ``None``)."""
    document: dict[str, Any] = json.loads(json.dumps(EXPERIMENT))
    *parents, last = place.split(".")
    node = document
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node[parent]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return document


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
