"""Random recipes, merged by evomerge and by MergeKit, and compared tensor by tensor.

    python scripts/compare_mergekit.py --peer MERGEKIT/bin/python [--recipes 300] [--stochastic 0] [--seed 1]
                                       [--folder DIR]

``--peer`` is a Python that has MergeKit 0.1.5; one process of it merges all recipes through ``run_merge``
(``mergekit-multi`` where there is a stage). The models are tiny and made here: Llama and Qwen2 (biases, tied
head), float32 and bfloat16, with words of their own, and a LoRA for each. Two tensors are equal where their
difference is at most 1e-5 of the largest change that the merge makes to its inputs, plus two roundings of the
dtype. Methods that drop at random have density 1, or below 1 in the recipes of ``--stochastic``: there the
mean and the variance of each element over 16 seeds are compared.

A difference counts as documented (docs/recipes.md) only if it is shown to be: where bfloat16 takes part, the
same recipe over float32 models must be equal, and ours must be what comes of the widened inputs in float32,
rounded once, bit by bit; the mean of karcher may differ by 1e-3 of the change. Prints each recipe that is not
equal, and the counts; exit code 1 where some differ otherwise, or only one of the two refuses.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from random_recipes import Recipes, make_adapters, make_models  # noqa: E402

PEER = """
import json, logging, pathlib, sys, tempfile
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import main as run_stages
logging.disable(logging.WARNING)
for recipe, out, seed in json.load(open(sys.argv[1])):
    try:
        text = pathlib.Path(recipe).read_text()
        documents = list(yaml.safe_load_all(text))
        with tempfile.TemporaryDirectory() as cache:
            if len(documents) > 1:
                arguments = [recipe, "--out-path", out, "-I", cache, "--lora-merge-cache", cache, "--quiet"]
                run_stages(arguments, standalone_mode=False)
            else:
                config = MergeConfiguration.model_validate(documents[0])
                options = MergeOptions(quiet=True, lora_merge_cache=cache, random_seed=seed)
                run_merge(config, out, options)
        said = ""
    except Exception as exception:
        said = f"{type(exception).__name__}: {exception}" or "error"
    print(json.dumps(["done", out, said[:300]]), flush=True)
"""


def merged_by_peer(
    peer: str, recipes: list[tuple[Path, Path]], folder: Path, seeds: Sequence[int | None] = (None,)
) -> dict[str, str]:
    """What the peer said of each recipe, by where it wrote: nothing, where it merged it.

    With several ``seeds``, it writes to ``OUT_SEED`` for each of them.
    """
    jobs = folder / "jobs.json"
    listed = [
        [str(r), str(o if len(seeds) == 1 else _of_seed(o, seed)), seed] for r, o in recipes for seed in seeds
    ]
    jobs.write_text(json.dumps(listed))
    done = subprocess.run([peer, "-c", PEER, str(jobs)], check=False, capture_output=True, text=True)
    said = {}
    for line in done.stdout.splitlines():
        if line.startswith('["done"'):
            _, out, text = json.loads(line)
            said[out] = text
    if len(said) < len(listed):
        sys.exit(f"the peer stopped after {len(said)} merges: {done.stderr[-800:]}")
    return said


def merged_by_us(recipe: Path, out: Path, seed: int | None = None) -> str:
    """What we said of the recipe: nothing, where we merged it; ``seed`` becomes its parameter."""
    from evomerge.engine.export import merge_to_disk
    from evomerge.engine.sources import open_sources
    from evomerge.errors import EvomergeError
    from evomerge.recipe import load_recipe

    try:
        loaded = load_recipe(recipe)
        if seed is not None:
            loaded = loaded.model_copy(update={"parameters": {**loaded.parameters, "seed": seed}})
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


def in_order_of(ours: Path, theirs: Path, peers: dict[str, Tensor]) -> dict[str, Tensor]:
    """``peers`` with the rows of the tokens where ours has them.

    Without a base, MergeKit begins the vocabulary with a model that is another one in each process.
    """
    from evomerge.tokenizers.vocabulary import quick_ids

    ids, other = quick_ids(ours), quick_ids(theirs)
    if ids is None or other is None or ids == other or ids.keys() != other.keys():
        return peers
    moved = dict(peers)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in peers:
            moved[name] = peers[name].clone()
            for token, row in ids.items():
                moved[name][row] = peers[name][other[token]]
    return moved


def differences_stochastic(ours: list[dict[str, Tensor]], peers: list[dict[str, Tensor]]) -> list[str]:
    """Tensors whose elements have another mean or spread than the peer's, over as many seeds of each."""
    found = []
    for name in ours[0]:
        one, other = (torch.stack([t[name].double() for t in draws]) for draws in (ours, peers))
        count, (a, b) = len(ours), (one.var(0), other.var(0))
        scale = (one.mean() - other.mean()).abs() + one.std() + 1e-12
        fixed = a + b < (1e-7 * scale) ** 2
        off = (one.mean(0) - other.mean(0)).abs()
        if bool((off[fixed] > 1e-5 * scale).any()):
            found.append(f"{name}: elements that do not depend on the seed differ by {off[fixed].max():.1e}")
        elements = int((~fixed).sum())
        if elements < _FEW:
            continue
        squares = float((off[~fixed] ** 2 / ((a + b)[~fixed] / count)).mean())
        spread = float(a.sum() / b.sum())
        if squares > 1.07 + 8 / math.sqrt(elements) or abs(math.log(spread)) > 5 / math.sqrt(elements):
            found.append(f"{name}: squares of t {squares:.2f} in the mean, variances {spread:.2f} to 1")
    return found


_SEEDS = 16
"""Of each recipe that drops at random."""
_FEW = 100
"""Elements of a tensor below which chance itself is too large. Where nothing differs, the squares of t are
1.07 in the mean (16 seeds of each); both limits are more than four standard errors away."""


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
        compared = [self._verdict(recipe, said[str(_out(recipe))]) for recipe in recipes]
        shown = {c.recipe: self._in_float32(c.recipe) for c in compared if self._can_be_rounding(c)}
        said = self._merged(list(shown.values()))
        for comparison in compared:
            variant = shown.get(comparison.recipe)
            if variant is None:
                continue
            of_variant = self._verdict(variant, said[str(_out(variant))])
            is_same = of_variant.word in ("equal", "differs as documented")
            if is_same and self._is_rounded_once(comparison.recipe):
                comparison.word = "differs as documented"
            else:
                comparison.details += f"\n    in float32: {of_variant.word} {of_variant.details}"
        return compared

    def compare_stochastic(self, recipes: list[Path]) -> list[Comparison]:
        """What became of recipes that drop at random: means and spreads over seeds.

        Of thousands of tensors some are far off at random; what differs with other seeds too is a difference.
        """
        compared = self._compared_stochastic(recipes, range(_SEEDS))
        suspects = [recipe for recipe, (word, _) in compared.items() if word == "different at random"]
        again = self._compared_stochastic(suspects, range(_SEEDS, 2 * _SEEDS))
        for recipe, (_, found) in again.items():
            names = {text.split(":")[0] for text in compared[recipe][1]}
            both = [text for text in found if text.split(":")[0] in names]
            compared[recipe] = ("different at random" if both else "equal but for chance", both)
        return [Comparison(recipe, word, "; ".join(found[:3])) for recipe, (word, found) in compared.items()]

    def _compared_stochastic(
        self, recipes: list[Path], seeds: Sequence[int]
    ) -> dict[Path, tuple[str, list[str]]]:
        """A word and the differences for each recipe."""
        said = merged_by_peer(self._peer, [(r, _out(r)) for r in recipes], self._folder, seeds)
        compared: dict[Path, tuple[str, list[str]]] = {}
        for recipe in recipes:
            theirs = [_of_seed(_out(recipe), seed) for seed in seeds]
            ours = [out.with_name(f"{out.name}_ours") for out in theirs]
            we_said = [merged_by_us(recipe, out, seed) for out, seed in zip(ours, seeds, strict=True)]
            they_said = [said[str(out)] for out in theirs]
            if any(we_said) or any(they_said):
                word = "both refuse" if all(we_said) and all(they_said) else "only one refuses"
                compared[recipe] = (word, [max(we_said), f"theirs: {max(they_said)}"])
                continue
            found = differences_stochastic([tensors_in(o) for o in ours], [tensors_in(o) for o in theirs])
            compared[recipe] = ("different at random" if found else "equal but for chance", found)
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
        one, other = tensors_in(ours), in_order_of(ours, _out(recipe), tensors_in(_out(recipe)))
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
        *stages, document = yaml.safe_load_all(recipe.read_text().replace("_bfloat16", f"_{stored}"))
        document = {k: v for k, v in document.items() if k != "out_dtype"} | {"dtype": dtype}
        variant.write_text(yaml.safe_dump_all([*stages, document], sort_keys=False))
        return variant


def _out(recipe: Path) -> Path:
    """Where the peer writes."""
    return recipe.with_name(f"{recipe.stem}_out")


def _of_seed(out: Path, seed: int | None) -> Path:
    """Where the peer writes with one of several seeds."""
    return out.with_name(f"{out.name}_{seed}")


def main() -> int:
    """Draws, merges, compares and prints; 1 if some weights differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", required=True, help="a Python that has MergeKit 0.1.5")
    parser.add_argument("--recipes", type=int, default=300)
    parser.add_argument(
        "--stochastic", type=int, default=0, help="recipes that drop at random, 16 seeds each"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; a temporary folder if not given"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_models(folder)
        make_adapters(folder)
        comparer = Comparer(folder, arguments.peer)
        recipes = _drawn(Recipes(folder, arguments.seed), arguments.recipes, folder / "recipe")
        compared = comparer.compare(recipes)
        stochastic = Recipes(folder, arguments.seed, stochastic=True)
        recipes = _drawn(stochastic, arguments.stochastic, folder / "stochastic")
        compared += comparer.compare_stochastic(recipes)
        for comparison in compared:
            if not comparison.word.startswith("equal"):
                text = comparison.recipe.read_text().replace(f"{folder}/", "")
                print(f"{comparison.recipe.stem} {comparison.word}: {comparison.details}")
                print("    " + json.dumps(list(yaml.safe_load_all(text))), flush=True)
        counts = Counter(comparison.word for comparison in compared)
        print(", ".join(f"{n} {word}" for word, n in counts.most_common()))
        fine = {"equal", "equal but for chance", "differs as documented", "both refuse"}
        return 1 if set(counts) - fine else 0


def _drawn(recipes: Recipes, count: int, stem: Path) -> list[Path]:
    """``count`` recipes, written to files."""
    files = [stem.with_name(f"{stem.name}_{i:04}.yml") for i in range(count)]
    for file in files:
        file.write_text(recipes.draw())
    return files


if __name__ == "__main__":
    sys.exit(main())
