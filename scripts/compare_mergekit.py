"""Random recipes, merged by evomerge and by MergeKit, and compared tensor by tensor.

    python scripts/compare_mergekit.py --peer MERGEKIT/bin/python [--recipes 300] [--seed 1] [--folder DIR]

``--peer`` is a Python that has MergeKit 0.1.5; one process of it merges all recipes through ``run_merge``.
The models are tiny and made here: Llama and Qwen2 (biases, tied head), float32 and bfloat16, with words of
their own. Methods that drop at random have density 1. Two tensors are equal where their difference is at most
1e-5 of the largest change that the merge makes to its inputs, plus two roundings of the dtype.

A difference counts as documented (docs/recipes.md) only if it is shown to be: where bfloat16 takes part, the
same recipe over float32 models must be equal, and ours must be what comes of the widened inputs in float32,
rounded once, bit by bit; the mean of karcher may differ by 1e-3 of the change. Prints each recipe that is not
equal, and the counts; exit code 1 where some differ otherwise, or only one of the two refuses.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LAYERS = 4
WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijkl"]
"""And one more word in each model."""
_STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "widened": torch.float32}
"""How each model is stored, in this order: ``widened`` has the values of ``bfloat16``."""
FAMILIES = ("llama", "qwen")
FILTERS = ("self_attn", "mlp", "norm", "q_proj", "layers.1.", "embed_tokens", "*")

PEER = """
import json, logging, sys, traceback
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
logging.disable(logging.WARNING)
for recipe, out in json.load(open(sys.argv[1])):
    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(open(recipe)))
        run_merge(config, out, MergeOptions(write_model_card=False, quiet=True))
        said = ""
    except Exception as exception:
        said = f"{type(exception).__name__}: {exception}" or "error"
    print(json.dumps(["done", recipe, said[:300]]), flush=True)
"""


def make_models(folder: Path) -> None:
    """Base and three fine-tunes of each family, in float32 and bfloat16; ``c`` has words of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    shape = {
        "vocab_size": len(WORDS) + 1,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    for family in FAMILIES:
        for seed, name in enumerate(("base", "a", "b", "c")):
            torch.manual_seed(7)
            model = (
                LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
                if family == "llama"
                else Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
            )
            torch.manual_seed(100 + seed)
            with torch.no_grad():
                for weight in model.parameters():
                    start = torch.randn_like(weight) * 0.1 if seed == 0 else torch.zeros_like(weight)
                    weight.add_(start + (0.02 * torch.randn_like(weight) if seed else 0))
            words = [*WORDS, f"own_{name}" if name == "c" else "shared"]
            for suffix, dtype in _STORED.items():
                target = folder / f"{family}_{name}_{suffix}"
                model.to(dtype).save_pretrained(target)
                _tokenizer(words).save_pretrained(target)


def _tokenizer(words: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


class Recipes:
    """Recipes drawn from ``seed``: any method, any of the forms that recipes have."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)

    def draw(self) -> dict[str, Any]:
        """One recipe."""
        from evomerge.methods import Base, methods

        method = self._random.choice(methods())
        family = self._random.choice(FAMILIES)
        dtypes = self._random.choice((("float32",), ("float32",), ("bfloat16",), ("float32", "bfloat16")))
        paths = {
            name: str(self._folder / f"{family}_{name}_{self._random.choice(dtypes)}")
            for name in ("base", "a", "b", "c")
        }
        least, most = method.models
        names = ["a", "b", "c"][: self._random.randint(least, min(3, most or 3))]
        document: dict[str, Any] = {"merge_method": method.name}
        lists_base = method.name == "slerp" or self._random.random() < 0.4
        if method.base is Base.REQUIRED or (method.name != "passthrough" and self._random.random() < 0.5):
            document["base_model"] = paths["base"]
            names = [*names, "base"] if lists_base else names
        self._random.shuffle(names)
        sources = [
            {"model": paths[name], "parameters": self._parameters(method, per_model=True)} for name in names
        ]
        self._arrange(document, sources, method)
        document["parameters"] = {
            **self._parameters(method, per_model=True, required=True),
            **self._parameters(method, per_model=False, required=True),
        }
        for key, values in (
            ("dtype", ("float32", "float32", "float32", "bfloat16", None)),
            ("out_dtype", (None, None, None, "float16", "float32")),
            ("tokenizer_source", (None, None, None, "union", "base", paths["a"])),
        ):
            value = self._random.choice(values)
            if key == "tokenizer_source" and family != "llama":
                continue  # versions of transformers add other tokens to a tokenizer of Qwen2
            is_there = value not in (paths["a"], "base") or (
                "a" in names if value == paths["a"] else "base_model" in document
            )
            if value is not None and is_there:
                document[key] = value
        return document

    def _arrange(self, document: dict[str, Any], sources: list[dict[str, Any]], method: Any) -> None:
        """The sources as models or slices."""
        base = document.get("base_model")
        is_llama = "llama_" in sources[0]["model"]  # MergeKit does not stack layers of Qwen2
        if not is_llama or self._random.random() < 0.6:
            document["models"] = sources
            return
        if base is not None and all(s["model"] != base for s in sources):
            sources.append({"model": base, "parameters": {}})
        slices: list[dict[str, Any]] = []
        for _ in range(self._random.randint(1, 3)):
            count = self._random.randint(1, LAYERS)
            first = self._random.randint(0, LAYERS - count)
            firsts = [
                first if self._random.random() < 0.8 else self._random.randint(0, LAYERS - count)
                for _ in sources
            ]
            ranged = [
                {**source, "layer_range": [first, first + count]}
                for source, first in zip(sources, firsts, strict=True)
            ]
            slices.append({"sources": ranged})
            if self._random.random() < 0.3:
                of_all = self._random.random() < 0.5
                slices[-1]["parameters"] = self._parameters(method, per_model=not of_all)
        document["slices"] = slices

    def _parameters(self, method: Any, *, per_model: bool, required: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for parameter in method.parameters.values():
            if parameter.per_model is not per_model or parameter.name in _NOT_THERE.get(method.name, ()):
                continue
            if parameter.name in ("seed", "max_iter", "tol", "eps"):
                continue
            wanted = parameter.required and required
            if not wanted and self._random.random() < 0.5:
                continue
            value = self._setting(method.name, parameter)
            if wanted and isinstance(value, list) and isinstance(value[0], dict):
                value = [*value, {"value": self._scalar(method.name, parameter)}]
            found[parameter.name] = value
        return found

    def _setting(self, method: str, parameter: Any) -> Any:
        """A value, a gradient or filters."""
        form = self._random.random()
        if form < 0.6:
            return self._scalar(method, parameter)
        if form < 0.8 and parameter.kind is float:
            return [self._scalar(method, parameter) for _ in range(self._random.randint(2, 4))]
        return [
            {"filter": self._random.choice(FILTERS), "value": self._scalar(method, parameter)}
            for _ in range(self._random.randint(1, 2))
        ]

    def _scalar(self, method: str, parameter: Any) -> Any:
        if parameter.kind is bool:
            return self._random.random() < 0.5
        if parameter.name == "density" and method.startswith(("dare", "della")):
            return 1.0
        if parameter.name == "epsilon" and method.startswith("della"):
            return 0.0
        if parameter.name == "weight":
            return round(self._random.uniform(0.1, 1.5), 2)
        if parameter.name == "gamma":
            return round(self._random.uniform(0.0, 0.2), 2)
        if parameter.name == "density":
            return round(self._random.uniform(0.3, 1.0), 2)
        high = parameter.high if parameter.high is not None else 1.5
        return round(self._random.uniform(max(parameter.low or 0.05, 0.05), min(high, 1.5)), 2)


_NOT_THERE = {"karcher": ("weight",)}
"""Parameters that MergeKit's method of that name lacks."""


def merged_by_peer(peer: str, recipes: list[tuple[Path, Path]], folder: Path) -> dict[str, str]:
    """What the peer said of each recipe: nothing, where it merged it."""
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([[str(r), str(o)] for r, o in recipes]))
    done = subprocess.run([peer, "-c", PEER, str(jobs)], check=False, capture_output=True, text=True)
    said = {}
    for line in done.stdout.splitlines():
        if line.startswith('["done"'):
            _, recipe, text = json.loads(line)
            said[recipe] = text
    if len(said) < len(recipes):
        sys.exit(f"the peer stopped after {len(said)} recipes: {done.stderr[-800:]}")
    return said


def merged_by_us(recipe: Path, out: Path) -> str:
    """What we said of the recipe: nothing, where we merged it."""
    from evomerge.engine.export import merge_to_disk
    from evomerge.engine.sources import open_sources
    from evomerge.errors import EvomergeError
    from evomerge.recipe import load_recipe

    try:
        loaded = load_recipe(recipe)
        merge_to_disk(loaded, open_sources({r: r for r in loaded.references()}), out)
    except EvomergeError as exception:
        return f"{type(exception).__name__}: {exception}"[:300]
    return ""


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder."""
    from evomerge.checkpoints.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name).clone() for name in checkpoint.tensors}


def differences(
    ours: dict[str, Tensor],
    peers: dict[str, Tensor],
    inputs: list[dict[str, Tensor]],
    tolerance: float = 1e-5,
) -> list[str]:
    """What is not equal, tensor by tensor; ``tolerance`` is relative to the change of the tensor."""
    found = [f"{name} is only in one" for name in ours.keys() ^ peers.keys()]
    for name in sorted(ours.keys() & peers.keys()):
        one, other = ours[name], peers[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            found.append(f"{name}: {list(one.shape)} {one.dtype}, theirs {list(other.shape)} {other.dtype}")
            continue
        changes = [
            (other.double() - m[name].double()).abs().max().item()
            for m in inputs
            if name in m and m[name].shape == other.shape
        ]
        # A layer of a stack, or another vocabulary, has no tensor to compare with: an estimate.
        change = max(changes, default=0.1 * other.double().abs().max().item())
        rounding = 2 * torch.finfo(one.dtype).eps * max(1e-3, other.double().abs().max().item())
        error = (one.double() - other.double()).abs().max().item()
        if not error <= tolerance * change + rounding:
            found.append(f"{name}: {error:.1e} of a change of {change:.1e}")
    return found


@dataclass
class Comparison:
    """What became of one recipe: a word, and the details."""

    recipe: Path
    word: str
    details: str = ""


class Comparer:
    """Compares ours with what the peer made; ``folder`` holds models and recipes."""

    def __init__(self, folder: Path, peer: str) -> None:
        self._folder = folder
        self._peer = peer
        self._models = {p.parent.name: tensors_in(p.parent) for p in sorted(folder.glob("*/config.json"))}

    def compare(self, recipes: list[Path]) -> list[Comparison]:
        """What became of each recipe; differences are held against what the docs say of them."""
        said = self._merged(recipes)
        compared = [self._verdict(recipe, said[str(recipe)]) for recipe in recipes]
        shown = {c.recipe: self._in_float32(c.recipe) for c in compared if self._can_be_rounding(c)}
        said = self._merged(list(shown.values()))
        for comparison in compared:
            variant = shown.get(comparison.recipe)
            if variant is None:
                continue
            of_variant = self._verdict(variant, said[str(variant)])
            is_same = of_variant.word in ("equal", "differs as documented")
            if is_same and self._is_rounded_once(comparison.recipe):
                comparison.word = "differs as documented"
            else:
                comparison.details += f"\n    in float32: {of_variant.word} {of_variant.details}"
        return compared

    def _merged(self, recipes: list[Path]) -> dict[str, str]:
        return merged_by_peer(self._peer, [(r, _out(r)) for r in recipes], self._folder) if recipes else {}

    def _verdict(self, recipe: Path, peer_said: str) -> Comparison:
        ours = _out(recipe).with_name(f"{recipe.stem}_ours")
        said = merged_by_us(recipe, ours)
        if said and peer_said:
            return Comparison(recipe, "both refuse", f"{said}\n    theirs: {peer_said}")
        if said or peer_said:
            return Comparison(
                recipe, "only ours refuses" if said else "only theirs refuses", said or peer_said
            )
        text = recipe.read_text()
        inputs = [tensors for model, tensors in self._models.items() if model in text]
        one, other = tensors_in(ours), tensors_in(_out(recipe))
        found = differences(one, other, inputs)
        shutil.rmtree(ours)
        if not found:
            return Comparison(recipe, "equal")
        # The mean is reached step by step, to 1e-5, in float32 there and in float64 here.
        iterates = "merge_method: karcher" in text and not differences(one, other, inputs, tolerance=1e-3)
        word = "differs as documented" if iterates else "different"
        return Comparison(recipe, word, f"{len(found)} tensors: {'; '.join(found[:3])}")

    def _can_be_rounding(self, comparison: Comparison) -> bool:
        return comparison.word == "different" and "bfloat16" in comparison.recipe.read_text()

    def _in_float32(self, recipe: Path) -> Path:
        """The recipe over the float32 models: nothing is rounded, and no two magnitudes are equal."""
        return self._variant(recipe, "float32", "float32")

    def _is_rounded_once(self, recipe: Path) -> bool:
        """Whether ours is that of the widened inputs in float32, rounded to the dtype of the output."""
        variant = self._variant(recipe, "widened", "float32")
        outs = _out(recipe).with_name(f"{recipe.stem}_ours"), _out(variant).with_name(f"{variant.stem}_ours")
        if any(merged_by_us(r, out) for r, out in zip((recipe, variant), outs, strict=True)):
            return False
        one, wide = (tensors_in(out) for out in outs)
        return all(torch.equal(tensor, wide[name].to(tensor.dtype)) for name, tensor in one.items())

    def _variant(self, recipe: Path, stored: str, dtype: str) -> Path:
        variant = recipe.with_name(f"{recipe.stem}_{stored}.yml")
        document = yaml.safe_load(recipe.read_text().replace("_bfloat16", f"_{stored}"))
        document = {k: v for k, v in document.items() if k != "out_dtype"} | {"dtype": dtype}
        variant.write_text(yaml.safe_dump(document, sort_keys=False))
        return variant


def _out(recipe: Path) -> Path:
    """Where the peer writes."""
    return recipe.with_name(f"{recipe.stem}_out")


def main() -> int:
    """Draws, merges, compares and prints; 1 if some weights differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", required=True, help="a Python that has MergeKit 0.1.5")
    parser.add_argument("--recipes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; a temporary folder if not given"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_models(folder)
        drawn = Recipes(folder, arguments.seed)
        recipes = []
        for i in range(arguments.recipes):
            recipes.append(folder / f"recipe_{i:04}.yml")
            recipes[-1].write_text(yaml.safe_dump(drawn.draw(), sort_keys=False))
        compared = Comparer(folder, arguments.peer).compare(recipes)
        for comparison in compared:
            if comparison.word != "equal":
                document = yaml.safe_load(comparison.recipe.read_text().replace(f"{folder}/", ""))
                print(f"{comparison.recipe.stem} {comparison.word}: {comparison.details}")
                print("    " + json.dumps(document), flush=True)
        counts = Counter(comparison.word for comparison in compared)
        print(", ".join(f"{n} {word}" for word, n in counts.most_common()))
        return 1 if set(counts) - {"equal", "differs as documented", "both refuse"} else 0


if __name__ == "__main__":
    sys.exit(main())
