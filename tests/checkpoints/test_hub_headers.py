"""Models of a hub: what is wrong is said from headers; the real client asks a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import Hub, serving
from safetensors.torch import load_file, save_file
from support import LLAMA, llama_shapes, save_model

WIDE = {**LLAMA, "vocab_size": 4096}
"""Weights of a megabyte: the client asks for the first 100,000 bytes of a file to read its header."""


def _tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) for n, s in llama_shapes(WIDE).items()}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    root = tmp_path / "hub"
    for seed, name in enumerate(("base", "one", "part", "coded", "plain")):
        tensors = _tensors(seed)
        if name == "part":
            del tensors["model.layers.1.mlp.up_proj.weight"]
        if name == "coded":
            tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(48, 32, dtype=torch.int8)
            tensors["model.layers.0.mlp.up_proj.SCB"] = torch.ones(48)
        save_model(root / "us" / name, tensors, WIDE)
    sharded = root / "us" / "one"
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    weight_map = {}
    for i, names in enumerate((list(tensors)[:10], list(tensors)[10:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names}, sharded / file)
        weight_map |= dict.fromkeys(names, file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save_file(tensors, sharded / "consolidated.safetensors")
    plain = root / "us" / "plain"
    torch.save(load_file(plain / "model.safetensors"), plain / "pytorch_model.bin")
    (plain / "model.safetensors").unlink()
    with serving(root) as found:
        yield found


def _merge(hub: Hub, folder: Path, *models: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    listed = [{"model": m, "parameters": {"weight": 0.5}} for m in models]
    (folder / "r.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": listed}))
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-m", "evomerge.cli.main", "merge", "r.yml", "out", "--overwrite"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_merge_downloads_the_weights_in_use_once_and_goes_on_offline(hub: Hub, tmp_path: Path) -> None:
    done = _merge(hub, tmp_path, "us/base", "us/one")
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.allclose(out[n], (a + _tensors(1)[n]) / 2, atol=1e-6) for n, a in _tensors(0).items())
    assert not any("consolidated" in name for name in hub.sent)
    sent = hub.weights_sent()
    again = _merge(hub, tmp_path, "us/base", "us/one", offline=True)
    assert again.returncode == 0, again.stderr
    assert hub.weights_sent() == sent


def test_models_that_do_not_fit_are_refused_before_their_weights_are_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    done = _merge(hub, tmp_path, "us/base", "us/part")
    assert done.returncode == 2
    assert "model.layers.1.mlp.up_proj.weight in us/part" in done.stderr
    assert hub.weights_sent() <= 2 * 100_001


def test_quantized_weights_of_the_hub_are_refused_before_any_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    done = _merge(hub, tmp_path, "us/base", "us/coded")
    assert done.returncode == 2
    assert "us/coded" in done.stderr
    assert "quantized" in done.stderr
    assert hub.weights_sent() <= 2 * 100_001


def test_all_models_that_the_hub_lacks_are_named_at_once(hub: Hub, tmp_path: Path) -> None:
    done = _merge(hub, tmp_path, "us/base", "us/nowhere", "us/neither")
    assert done.returncode == 2
    assert "us/nowhere" in done.stderr
    assert "us/neither" in done.stderr
    assert hub.weights_sent() <= 100_001


def test_a_cache_that_cannot_be_used_is_not_blamed_on_the_model(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    done = _merge(hub, tmp_path, "us/base", "us/one")
    assert done.returncode == 2
    assert "us/base: the hub's cache cannot be used (" in done.stderr
    assert f"{tmp_path}/cache" in done.stderr
    assert "Not a directory" in done.stderr
    assert "there is neither" not in done.stderr


def test_a_model_that_the_cache_lacks_is_told_apart_from_one_that_does_not_exist(
    hub: Hub, tmp_path: Path
) -> None:
    done = _merge(hub, tmp_path, "us/base", "us/one", offline=True)
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert f"{tmp_path}/cache" in done.stderr


def test_a_model_without_safetensors_is_merged_from_its_bin(hub: Hub, tmp_path: Path) -> None:
    done = _merge(hub, tmp_path, "us/base", "us/plain")
    assert done.returncode == 0, done.stderr
    assert "us/plain/pytorch_model.bin" in hub.sent
