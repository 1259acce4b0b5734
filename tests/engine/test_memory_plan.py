"""Where sources are kept: the fastest place that has room."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import MakeModel

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
    import torch

    models = open_sources({n: str(make_model(n, i, dtype=torch.bfloat16)) for i, n in enumerate("ab")})
    document = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}} for m in "ab"]}
    merge_plan = Inputs(models).plan(parse_recipe(document))
    narrow = memory_plan(models, merge_plan, "cpu", None)
    wide = memory_plan(models, merge_plan, "cpu", 4)
    assert narrow.sources == 2 * narrow.live_model == wide.live_model
    assert narrow.sources_in is SourcesIn.MAPPED
    assert narrow.resident == narrow.live_model


def test_what_the_host_can_give_is_known_here() -> None:
    on_device, on_host = free_on("cpu")
    assert on_device is None
    assert on_host > 10**6
