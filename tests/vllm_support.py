"""What tests of the vLLM engine share: small engines, and requests as lm-eval makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.recipe import Recipe, parse_recipe

ENGINE_ARGS: dict[str, Any] = {
    "enforce_eager": True,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
    "kv_cache_memory_bytes": 2**27,
}


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, a, i) for i, a in enumerate(arguments)]


def linear(weight: float, **more: Any) -> Recipe:
    """So much of ``add``, the rest of ``sort``."""
    shares = (("add", weight), ("sort", 1 - weight))
    models = [{"model": name, "parameters": {"weight": share}} for name, share in shares]
    return parse_recipe({"merge_method": "linear", "models": models, "dtype": "bfloat16", **more})


def passthrough(model: str) -> Recipe:
    return parse_recipe({"merge_method": "passthrough", "models": [{"model": model}]})


def on_disk(folder: Path) -> Any:
    """transformers' view of a merged folder, to be asked."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evomerge.backends.transformers_lm import LoadedModel

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return LoadedModel(model, AutoTokenizer.from_pretrained(folder)).lm(4)
