"""What was scored is what is exported: the live model and the files hold the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import ZOO, MakeModel, numbers_printed
from torch import Tensor

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.engine.export import MergeOptions, merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.errors import CandidateError, CheckpointError, FailureKind, OutputError
from evomerge.recipe import Recipe, parse_recipe


def recipe_of(method: str, *names: str, **extra: Any) -> Recipe:
    """A recipe of ``method`` over the models ``names``, the first of which is the base if there is one."""
    parameters = {"weight": 0.4} | ({} if method == "linear" else {"density": [0.3, 0.8]})
    base = {} if method == "linear" else {"base_model": names[0]}
    models = [{"model": n, "parameters": parameters} for n in names[1:]]
    return parse_recipe({"merge_method": method, "models": models, **base, **extra})


@pytest.fixture
def family(make_model: MakeModel) -> dict[str, str]:
    """A base and three fine-tunes, by name."""
    return {n: str(make_model(n, seed)) for seed, n in enumerate(("base", "one", "two", "three"))}


def live_tensors(live: TransformersModel) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in live.model.state_dict().items()}


def test_a_live_model_that_calculates_in_float32_holds_the_rounded_weights(family: dict[str, str]) -> None:
    checkpoints = open_sources(family)
    recipe = recipe_of("ties", *family, dtype="bfloat16")
    wide, narrow = TransformersModel(checkpoints, compute_dtype=torch.float32), TransformersModel(checkpoints)
    assert wide.load(recipe) == narrow.load(recipe)
    for name, tensor in live_tensors(wide).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, live_tensors(narrow)[name].float())


def test_an_earlier_candidate_leaves_no_trace(family: dict[str, str]) -> None:
    checkpoints = open_sources(family)
    recipes = [recipe_of(method, *family) for method in ("ties", "linear", "dare_ties")]
    used = TransformersModel(checkpoints)
    first = [used.load(r) for r in recipes]
    assert [used.load(r) for r in reversed(recipes)] == first[::-1]
    assert [TransformersModel(checkpoints).load(r) for r in recipes] == first
    assert len(set(first)) == 3


def test_a_deeper_candidate_rebuilds_the_model_and_equals_what_transformers_loads(
    family: dict[str, str], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    checkpoints = open_sources(family)
    deep = parse_recipe(
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": "one", "layer_range": [0, 3]}]},
                {"sources": [{"model": "two", "layer_range": [1, 3]}]},
            ],
        }
    )
    flat = parse_recipe({"merge_method": "linear", "models": [{"model": "one", "parameters": {"weight": 1}}]})
    live = TransformersModel(checkpoints)
    before = live.load(flat)
    merge_to_disk(deep, checkpoints, tmp_path / "deep")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "deep")
    live.load(deep)
    assert loaded.config.num_hidden_layers == 5
    tokens = torch.arange(12).view(1, -1)
    with torch.no_grad():
        assert torch.equal(live.model(tokens).logits, loaded.eval()(tokens).logits)
    assert live.load(flat) == before


def test_a_fingerprint_sees_one_bit(make_model: MakeModel, family: dict[str, str]) -> None:
    def flip(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"].view(torch.int32)[3] ^= 1

    changed = make_model("flipped", 1, change=flip)
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": "one"}]})
    original = TransformersModel(open_sources(family)).load(recipe)
    assert TransformersModel(open_sources({"one": str(changed)})).load(recipe) != original


def test_nan_in_a_source_is_a_failed_candidate_in_memory_and_no_folder_on_disk(
    make_model: MakeModel, family: dict[str, str], tmp_path: Path
) -> None:
    def poison(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = float("nan")

    bad = {**family, "one": str(make_model("poisoned", 1, change=poison))}
    recipe = parse_recipe(
        {
            "merge_method": "linear",
            "models": [{"model": m, "parameters": {"weight": 1}} for m in ("one", "two")],
        }
    )
    with pytest.raises(CandidateError, match=r"model\.layers\.1\.mlp\.up_proj\.weight") as caught:
        TransformersModel(open_sources(bad)).load(recipe)
    assert caught.value.kind is FailureKind.NON_FINITE_WEIGHTS
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        merge_to_disk(recipe, open_sources(bad), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []


def test_weights_that_were_not_scored_are_not_written(family: dict[str, str], tmp_path: Path) -> None:
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": "one"}]})
    with pytest.raises(OutputError, match="fingerprint"):
        merge_to_disk(
            recipe, open_sources(family), tmp_path / "out", MergeOptions(expected_fingerprint="0" * 32)
        )
    assert not (tmp_path / "out").exists()


def test_shards_tokenizer_and_card_are_complete(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = parse_recipe(
        {
            "merge_method": "linear",
            "models": [{"model": n, "parameters": {"weight": 1}} for n in ("add", "sort")],
        }
    )
    checkpoints = open_sources({n: str(ZOO / n) for n in ("add", "sort")})
    result = merge_to_disk(recipe, checkpoints, tmp_path / "out", MergeOptions(shard_bytes=100_000))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == result.bytes
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    mean = (
        open_checkpoint(ZOO / "add").read("lm_head.weight").float()
        + open_checkpoint(ZOO / "sort").read("lm_head.weight").float()
    ) / 2
    assert torch.equal(model.lm_head.weight, mean.bfloat16())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([5]) == AutoTokenizer.from_pretrained(
        ZOO / "add"
    ).decode([5])
    assert (tmp_path / "out" / "generation_config.json").is_file()
    assert "merge_method: linear" in (tmp_path / "out" / "README.md").read_text()


def test_tied_embeddings_stay_tied(make_model: MakeModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tied = {"tie_word_embeddings": True}
    models = {n: str(make_model(n, i, config=tied)) for i, n in enumerate(("a", "b"), start=1)}
    recipe = parse_recipe(
        {"merge_method": "linear", "models": [{"model": n, "parameters": {"weight": 1}} for n in models]}
    )
    checkpoints = open_sources(models)
    live = TransformersModel(checkpoints)
    live.load(recipe)
    merge_to_disk(recipe, checkpoints, tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.arange(8).view(1, -1)
    with torch.no_grad():
        assert torch.equal(live.model(tokens).logits, loaded.eval()(tokens).logits)


def test_integer_buffers_are_copied(make_model: MakeModel, tmp_path: Path) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        tensors["model.positions"] = torch.arange(7)

    models = {n: str(make_model(n, i, change=add)) for i, n in enumerate(("a", "b"), start=1)}
    recipe = parse_recipe(
        {"merge_method": "linear", "models": [{"model": n, "parameters": {"weight": 1}} for n in models]}
    )
    merge_to_disk(recipe, open_sources(models), tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["model.positions"], torch.arange(7))


def test_a_merge_killed_midway_leaves_nothing_and_runs_again(family: dict[str, str], tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from evomerge.checkpoints.writer import CheckpointWriter
        from evomerge.checkpoints.checkpoint import TensorInfo
        import torch
        infos = {"a": TensorInfo((64, 64), torch.float32)}
        writer = CheckpointWriter(Path(sys.argv[1]), infos, shard_bytes=10**9)
        writer.tensor("a").put(0, torch.ones(64, 64))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", script, str(out)], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": "one"}]})
    merge_to_disk(recipe, open_sources(family), out)
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "config.json",
        "evomerge_files.json",
        "evomerge_recipe.yml",
        "model.safetensors",
    ]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")] == []


MERGE = """
import re, sys
from pathlib import Path
from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.recipe import parse_recipe
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024
names = [f"m{i}" for i in range(4)]
models = [{"model": n, "parameters": {"weight": 0.25}} for n in names]
for name, out in (("small", "a"), ("large", "b")):
    folder = Path(sys.argv[1]) / name
    sources = open_sources({n: str(folder / n) for n in names})
    merge_to_disk(parse_recipe({"merge_method": "linear", "models": models}), sources, folder / out)
    print(peak())
"""


def test_the_memory_of_a_merge_does_not_grow_with_its_tensors(tmp_path: Path) -> None:
    rows = {"small": 256, "large": 40_000}  # of 4096 elements: 2 MiB and 312 MiB
    for name, count in rows.items():
        for i in range(4):
            folder = tmp_path / name / f"m{i}"
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            size = count * 4096 * 2
            header = {"w": {"dtype": "BF16", "shape": [count, 4096], "data_offsets": [0, size]}}
            text = json.dumps(header).encode()
            with (folder / "model.safetensors").open("wb") as file:  # zeros that take no room on the disk
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + size)
    small, large = numbers_printed(MERGE, tmp_path)
    # Four inputs and the output are 1.5 GiB; what is held at a time is some 32 MiB of each.
    assert large - small < 400 * 2**20
