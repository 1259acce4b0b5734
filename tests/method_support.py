"""What tests of merge methods share: an example of each, inputs, and merges in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.engine.export import MergeOptions, MergeResult, merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.recipe import parse_recipe


def recipe_of(method: str, count: int, settings: Mapping[str, Any], **top: Any) -> dict[str, Any]:
    """A recipe for models m0, m1, ...; of the settings, lists and tuples have one number per model."""
    per_model = {k: v for k, v in settings.items() if isinstance(v, list | tuple)}
    models = [{"model": f"m{i}", "parameters": {k: v[i] for k, v in per_model.items()}} for i in range(count)]
    shared = {k: v for k, v in settings.items() if k not in per_model}
    return {"merge_method": method, "models": models, "parameters": shared, **top}


class ModelFolders:
    """Models of one tensor, ``w``, and merges of them, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def store(self, tensors: Mapping[str, Tensor]) -> None:
        """One model folder for each name."""
        config = {"architectures": ["XForCausalLM"], "model_type": "x", "num_hidden_layers": 2}
        for model, tensor in tensors.items():
            (self.folder / model).mkdir(exist_ok=True)
            (self.folder / model / "config.json").write_text(json.dumps(config))
            save_file({"w": tensor.clone()}, self.folder / model / "model.safetensors")

    def merge_recipe(self, document: Mapping[str, Any], **options: Any) -> MergeResult:
        """Writes the merge; ``merged`` reads it."""
        recipe = parse_recipe(dict(document))
        checkpoints = open_sources({r: r for r in recipe.references()}, (self.folder,))
        return merge_to_disk(
            recipe, checkpoints, self.folder / "out", MergeOptions(overwrite=True, **options)
        )

    @property
    def merged(self) -> Tensor:
        """The last result."""
        return load_file(self.folder / "out" / "model.safetensors")["w"]

    def merge(
        self, method: str, models: Sequence[Tensor], base: Tensor | None, settings: Mapping[str, Any]
    ) -> Tensor:
        """The merge of these tensors, from folder to folder; settings as in ``recipe_of``."""
        self.store({f"m{i}": x for i, x in enumerate(models)} | ({} if base is None else {"base": base}))
        top = {} if base is None else {"base_model": "base"}
        self.merge_recipe(recipe_of(method, len(models), settings, **top))
        return self.merged
