"""Where sources are kept: the fastest place that has room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support import MakeModel, numbers_printed

from evomerge.engine.inputs import Inputs
from evomerge.engine.memory import SourcesIn, free_on, memory_plan, place_for_sources
from evomerge.engine.sources import open_sources
from evomerge.recipe import parse_recipe

GB = 10**9


@pytest.mark.parametrize(
    ("sources", "live", "device", "host", "place"),
    [
        (42 * GB, 14 * GB, 80 * GB, 100 * GB, SourcesIn.DEVICE),
        (56 * GB, 14 * GB, 80 * GB, 100 * GB, SourcesIn.PINNED),  # the rest of the device is for activations
        (56 * GB, 14 * GB, 80 * GB, 60 * GB, SourcesIn.MAPPED),
        (42 * GB, 14 * GB, None, 1000 * GB, SourcesIn.MAPPED),
    ],
)
def test_sources_are_kept_in_the_fastest_place_with_room(
    sources: int, live: int, device: int | None, host: int, place: SourcesIn
) -> None:
    assert place_for_sources(sources, live, device, host) is place


def test_the_plan_counts_sources_and_the_model_in_its_compute_dtype(
    make_model: MakeModel, tmp_path: Path
) -> None:
    models = open_sources({n: str(make_model(n, i, dtype=torch.bfloat16)) for i, n in enumerate("ab")})
    document = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}} for m in "ab"]}
    merge_plan = Inputs(models).plan(parse_recipe(document))
    narrow = memory_plan(models, merge_plan, "cpu", None)
    wide = memory_plan(models, merge_plan, "cpu", 4)
    assert narrow.sources == 2 * narrow.live_model == wide.live_model
    assert narrow.sources_in is SourcesIn.MAPPED


def test_what_the_host_can_give_is_known_here() -> None:
    on_device, on_host = free_on("cpu")
    assert on_device is None
    assert on_host > 10**6


LIVE = """
import re, sys
from pathlib import Path
import torch
from evomerge.engine.inputs import Inputs
from evomerge.backends.transformers_weights import TransformersWeights
from evomerge.engine.memory import memory_plan
from evomerge.engine.sources import open_sources
from evomerge.recipe import parse_recipe
def status(key):
    return int(re.search(rf"{key}:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024
models = open_sources({"a": sys.argv[1]})
plan = Inputs(models).plan(parse_recipe({"merge_method": "passthrough", "models": [{"model": "a"}]}))
TransformersWeights(plan, torch.float32, torch.device("meta"))  # what is imported is not measured
before = status("VmRSS")
live = TransformersWeights(plan, torch.float32, torch.device("cpu"))
print(status("VmHWM") - before, memory_plan(models, plan, "cpu", 4).live_model)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_mixture_of_experts_takes_its_memory_once(tmp_path: Path) -> None:
    """Though files have a tensor per expert, and the model one for all experts of a layer."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"hidden_size": 256, "moe_intermediate_size": 256, "num_experts": 16, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_experts_per_tok": 2}
    config = Qwen3MoeConfig(vocab_size=128, intermediate_size=256, **sizes, **heads)
    Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    # With each tensor in pages of its own, what is resident is what is in use.
    taken, planned = numbers_printed(LIVE, tmp_path, MALLOC_MMAP_THRESHOLD_="65536")
    assert planned > 50 * 2**20
    assert taken < 1.4 * planned  # a layer's experts are there twice at a time: here a quarter
