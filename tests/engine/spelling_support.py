"""Tiny models of transformers whose files are written in several spellings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.engine.export import MergeResult, merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.recipe import Recipe, parse_recipe

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Folder:
    """Model folders by name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, name: str, model: Any, seed: int) -> None:
        """``model`` with other weights, as transformers saves it."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, weight in sorted(model.named_parameters()):
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
        model.save_pretrained(self.path / name)

    def live(self, name: str, source: str, model: Any) -> None:
        """The weights of ``model``, saved as ``source`` before, under their names in memory."""
        stored: dict[str, Tensor] = {}
        seen: set[int] = set()
        for key, weight in model.state_dict().items():
            if weight.data_ptr() not in seen:  # of tied weights the first
                stored[key] = weight
            seen.add(weight.data_ptr())
        self.write(name, source, lambda _: stored)

    def write(self, name: str, source: str, change: Change, **config: Any) -> None:
        """The folder ``source`` with other tensors, or with other settings."""
        shutil.copytree(self.path / source, self.path / name)
        weights = {n: t.clone().contiguous() for n, t in change(self.tensors(source)).items()}
        save_file(weights, self.path / name / "model.safetensors", metadata={"format": "pt"})
        self.set(name, **config)

    def set(self, name: str, **config: Any) -> None:
        """Other settings in config.json."""
        file = self.path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))

    def config(self, name: str) -> dict[str, Any]:
        """What config.json says."""
        found: dict[str, Any] = json.loads((self.path / name / "config.json").read_text())
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What the folder stores."""
        return load_file(self.path / name / "model.safetensors")

    def checkpoints(self, recipe: Recipe) -> dict[str, Checkpoint]:
        """The models of ``recipe``, opened."""
        return open_sources({r: str(self.path / r) for r in recipe.references()})

    def merge(self, recipe: Recipe, out: str = "out") -> MergeResult:
        """Merged to disk; in memory it is the same model."""
        checkpoints = self.checkpoints(recipe)
        written = merge_to_disk(recipe, checkpoints, self.path / out)
        live = TransformersModel(checkpoints)
        assert live.load(recipe) == written.fingerprint
        in_memory, loaded = live.model.state_dict(), self.load(out).state_dict()
        assert in_memory.keys() == loaded.keys()
        assert all(torch.equal(in_memory[n], loaded[n]) for n in in_memory)
        live.close()
        return written

    def load(self, name: str) -> Any:
        """The model that transformers makes of the folder, with all its weights and nothing left over."""
        import transformers

        model_class = getattr(transformers, self.config(name)["architectures"][0])
        model, report = model_class.from_pretrained(self.path / name, output_loading_info=True)
        assert not any(report.values()), report
        return model.eval()


def ties(base: str, *models: str, method: str = "ties") -> Recipe:
    """Sparse task vectors of ``models`` over ``base``: which elements stay depends on the whole tensor."""
    listed = [{"model": m, "parameters": {"weight": 0.7, "density": 0.4}} for m in models]
    return parse_recipe({"merge_method": method, "base_model": base, "models": listed})


def linear(*models: str, **extra: Any) -> Recipe:
    """The average."""
    listed = [{"model": m, "parameters": {"weight": 1}} for m in models]
    return parse_recipe({"merge_method": "linear", "models": listed, **extra})
