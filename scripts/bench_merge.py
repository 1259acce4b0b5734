"""Times `evomerge merge` against `cp` of the same bytes moved, method by method, in turn, on this machine.

    python scripts/bench_merge.py [--parameters 500e6] [--runs 3] [--methods ties,linear] [--folder DIR]
                                  [--peer 'mergekit-yaml {recipe} {out}']

Bytes moved: all inputs read and the output written. `cp` moves each byte twice, so it copies half
as many. Each merge runs in a process of its own that reports its seconds and its peak RSS; before them it
merges tiny models, so that start-up does not count. Both are done twice in a row and the second counts: on a
virtual machine, memory that was free for a while costs several times as much to touch again. Against a peer
whole commands are timed, from the shell's point of view: start-up counts on both sides.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

SPAN = (
    "linear",
    "task_arithmetic",
    "slerp",
    "nuslerp",
    "multislerp",
    "karcher",
    "model_stock",
    "passthrough",
)
TARGETS = {"della": 6.0, "della_linear": 6.0, "arcee_fusion": 6.0} | dict.fromkeys(SPAN, 1.5)

OURS = (sys.executable, "-m", "evomerge.cli.main", "merge", "{recipe}", "{out}", "--overwrite")

CHILD = """
import json, re, shutil, sys, time
from pathlib import Path
from evomerge.engine.export import MergeOptions, merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.recipe import load_recipe
recipe = load_recipe(Path(sys.argv[1]))
folder = Path(sys.argv[1]).parent
# Start-up: numba is imported and loads its kernels once per process, about a second whatever the model.
tiny = open_sources({r: r for r in recipe.references()}, (folder / "tiny",))
merge_to_disk(recipe, tiny, Path(sys.argv[2]), MergeOptions(overwrite=True))
checkpoints = open_sources({r: r for r in recipe.references()}, (folder,))
out, options = Path(sys.argv[2]), MergeOptions(threads=int(sys.argv[3]), overwrite=True)
for _ in range(2):
    shutil.rmtree(out)
    start = time.perf_counter()
    merge_to_disk(recipe, checkpoints, out, options)
    seconds = time.perf_counter() - start
status = Path("/proc/self/status").read_text()  # getrusage's maximum is inherited
print(json.dumps([seconds, int(re.search(r"VmHWM:\\s+(\\d+)", status).group(1)) * 1024]))
"""


def llama_like(
    parameters: float, vocabulary: int = 32_000, layers: int = 16
) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Names and shapes of a model of about ``parameters``, and its configuration."""
    hidden = max(256, round((parameters / 16 / 13) ** 0.5 / 64) * 64)
    inner = hidden * 11 // 4 // 64 * 64
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(layers):
        p = f"model.layers.{i}."
        for name in ("self_attn.q_proj", "self_attn.o_proj"):
            shapes[f"{p}{name}.weight"] = (hidden, hidden)
        for name in ("self_attn.k_proj", "self_attn.v_proj"):
            shapes[f"{p}{name}.weight"] = (hidden // 4, hidden)
        shapes |= {
            f"{p}mlp.gate_proj.weight": (inner, hidden),
            f"{p}mlp.up_proj.weight": (inner, hidden),
            f"{p}mlp.down_proj.weight": (hidden, inner),
            f"{p}input_layernorm.weight": (hidden,),
            f"{p}post_attention_layernorm.weight": (hidden,),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "dtype": "bfloat16",
    }
    return shapes, config


def make_models(
    folder: Path, parameters: float, count: int, *, vocabulary: int = 32_000, layers: int = 16
) -> int:
    """A base and fine-tunes of about ``parameters`` each, bfloat16; bytes of one."""
    shapes, config = llama_like(parameters, vocabulary, layers)
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=generator) * 0.02 for n, s in shapes.items()}
    for i in range(count):
        target = folder / f"m{i}"
        target.mkdir(parents=True)
        tensors = {
            n: (t if i == 0 else t + torch.randn(t.shape, generator=generator) * 0.001).to(torch.bfloat16)
            for n, t in base.items()
        }
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        (target / "config.json").write_text(json.dumps(config))
    return (folder / "m0" / "model.safetensors").stat().st_size


def recipes() -> dict[str, dict[str, Any]]:
    """A recipe for each method, over as many models as it takes (four at most)."""
    from evomerge.methods import Base, methods

    found = {}
    for method in methods():
        count = min(method.models[1] or 3, 3 if method.base is not Base.NONE else 4)
        parameters: dict[str, Any] = {}
        if "weight" in method.parameters:
            parameters["weight"] = 0.3
        if "density" in method.parameters:
            parameters["density"] = 0.5
        first = 1 if method.base is Base.REQUIRED else 0
        document: dict[str, Any] = {
            "merge_method": method.name,
            "models": [{"model": f"m{i}", "parameters": parameters} for i in range(first, first + count)],
            "parameters": {k: 0.3 for k in ("t",) if k in method.parameters},
        }
        if method.name == "sce":
            document["parameters"]["select_topk"] = 0.5
        if method.base is Base.REQUIRED:
            document["base_model"] = "m0"
        found[method.name] = document
    return found


def copy_seconds(source: Path, target: Path, copied: float) -> float:
    """Seconds of `cp` for ``copied`` bytes, from files of the size of ``source``."""
    size = source.stat().st_size
    whole, rest = divmod(int(copied), size)
    seconds = 0.0
    for _ in range(2):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        start = time.perf_counter()
        for i in range(whole):
            subprocess.run(["cp", source, target / str(i)], check=True)
        if rest:
            with (target / "rest").open("wb") as out:
                subprocess.run(["head", "-c", str(rest), source], check=True, stdout=out)
        seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def merge_seconds(recipe: Path, out: Path, threads: int) -> tuple[float, int]:
    """Seconds and peak RSS of a merge in a process of its own."""
    command = [sys.executable, "-c", CHILD, str(recipe), str(out), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, rss = json.loads(done.stdout.splitlines()[-1])
    return seconds, rss


def command_seconds(command: Sequence[str], recipe: Path, out: Path) -> float:
    """Seconds of a whole process that merges ``recipe``, a file in its working folder, into ``out``."""
    shutil.rmtree(out, ignore_errors=True)
    parts = [part.format(recipe=recipe.name, out=out) for part in command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    start = time.perf_counter()
    done = subprocess.run(
        parts, check=False, capture_output=True, text=True, cwd=recipe.parent, env=environment
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        print(f"{shlex.join(parts)} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return math.nan
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=float, default=500e6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--methods", default="")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; a temporary folder if not given"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer", default=None, help="a command with {recipe} and {out} to compare with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        size = make_models(folder, arguments.parameters, 4)
        make_models(folder / "tiny", 1e4, 4, vocabulary=512, layers=1)
        print(f"{size / 2e6:.0f}M parameters, bfloat16, {arguments.threads} threads, {arguments.runs} runs")
        print(
            f"{'method':18}{'inputs':>7}{'merge s':>9}{'cp s':>8}{'ratio':>7}{'target':>8}{'RSS MiB':>9}"
            + (f"{'ours s':>9}{'peer s':>9}{'times':>7}" if arguments.peer else "")
        )
        wanted = arguments.methods.split(",") if arguments.methods else None
        for method, document in recipes().items():
            if wanted is not None and method not in wanted:
                continue
            recipe = folder / f"{method}.yml"
            recipe.write_text(yaml.safe_dump(document))
            inputs = len(document["models"]) + ("base_model" in document)
            merge_seconds(recipe, folder / "out", arguments.threads)  # compiles kernels, fills the page cache
            merges, copies, ours, peers, peak = [], [], [], [], 0
            for _ in range(arguments.runs):
                copies.append(
                    copy_seconds(
                        folder / "m0" / "model.safetensors", folder / "copy", (inputs + 1) / 2 * size
                    )
                )
                seconds, rss = merge_seconds(recipe, folder / "out", arguments.threads)
                merges.append(seconds)
                peak = max(peak, rss)
                if arguments.peer:
                    ours.append(command_seconds(OURS, recipe, folder / "ours"))
                    peers.append(command_seconds(shlex.split(arguments.peer), recipe, folder / "peer"))
            merge, copy = statistics.median(merges), statistics.median(copies)
            ratio = statistics.median(m / c for m, c in zip(merges, copies, strict=True))
            target = TARGETS.get(method, 3.0)
            line = f"{method:18}{inputs:7}{merge:9.2f}{copy:8.2f}{ratio:7.2f}{target:8.1f}{peak / 2**20:9.0f}"
            if peers:
                own, peer = statistics.median(ours), statistics.median(peers)
                line += f"{own:9.2f}{peer:9.2f}{peer / own:7.1f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
