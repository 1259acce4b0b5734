"""The same code on a GPU: same masks, values within one rounding of the output dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import MakeModel
from test_memory_and_disk import recipe_of

from evomerge.engine.materialize import Materializer
from evomerge.engine.sources import open_sources
from evomerge.methods import methods

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("method", methods(), ids=lambda m: m.name)
def test_a_gpu_makes_the_weights_of_the_cpu(method: Any, make_model: MakeModel) -> None:
    family = {n: str(make_model(n, seed)) for seed, n in enumerate(("base", "one", "two", "three"))}
    recipe = recipe_of(method, list(family), out_dtype="bfloat16")
    cpu, gpu = Materializer(open_sources(family)), Materializer(open_sources(family), device="cuda")
    cpu.load(recipe)
    first = gpu.load(recipe)
    assert gpu.load(recipe) == first
    for name, tensor in cpu.model.state_dict().items():
        other = gpu.model.state_dict()[name].cpu()
        torch.testing.assert_close(other.float(), tensor.float(), rtol=2**-7, atol=1e-6)
