"""Seconds per candidate with vLLM and with transformers, side by side, on the same requests.

    .venv-vllm/bin/python scripts/bench_engines.py [--model DIR] [--dtype bfloat16] [--items 64] [--tokens 64]

Needs vLLM (scripts/test-vllm makes .venv-vllm). Without --model on a small Llama with random weights. The
two sources are the model and a copy with noise; a candidate is a mean of them, merged, then asked. A row:
seconds of the update, of the answers (prompts of some 40 tokens, each answered with --tokens tokens), of
log-likelihoods (the same prompts, a continuation of a few tokens), of all together; tokens generated a
second. The best of --repeats candidates, as other work shares the machine; the first one, which compiles,
does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))

import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file

from evomerge.backends.registry import resident_model
from evomerge.backends.resident import ModelSettings, ResidentModel
from evomerge.recipe import Recipe, parse_recipe

ROOT = Path(__file__).resolve().parent.parent
SMALL: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8, "head_dim": 64}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
CPU = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30, "max_num_seqs": 64}


def small_model(folder: Path) -> Path:
    """A Llama with random weights and the tokenizer of the zoo."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    zoo = ROOT / "experiments" / "zoo" / "base"
    ids = {
        key: json.loads((zoo / "config.json").read_text())[key] for key in ("bos_token_id", "eos_token_id")
    }
    config = LlamaConfig(vocab_size=35, initializer_range=0.08, **SMALL, **ids)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(zoo / name, folder)
    return folder


def with_noise(model: Path, folder: Path) -> Path:
    """A copy of ``model`` with other weights."""
    shutil.copytree(model, folder)
    generator = torch.Generator().manual_seed(1)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, weight in tensors.items():
            noise = torch.randn(weight.shape, generator=generator) * 0.01 * weight.float().std()
            tensors[name] = (weight.float() + noise).to(weight.dtype)
        save_file(tensors, file, {"format": "pt"})
    return folder


def recipe(weight: float) -> Recipe:
    """So much of the one, the rest of the other."""
    shares = (("one", weight), ("two", 1 - weight))
    models = [{"model": name, "parameters": {"weight": share}} for name, share in shares]
    return parse_recipe({"merge_method": "linear", "models": models, "dtype": "bfloat16"})


def requests(items: int, tokens: int, *, is_small: bool) -> tuple[list[Instance], list[Instance]]:
    """Answers to generate, and continuations to rate."""
    draw = random.Random(0)
    words = "0123456789+=abcde" if is_small else ["apple ", "seven ", "runs ", "of ", "the ", "Why? "]
    prompts = ["".join(draw.choices(words, k=40)) for _ in range(items)]
    settings = {"until": ["~~~"], "max_gen_toks": tokens}
    generated = [Instance("generate_until", {}, (p, dict(settings)), i) for i, p in enumerate(prompts)]
    rated = [Instance("loglikelihood", {}, (p, "46ab"), i) for i, p in enumerate(prompts)]
    return generated, rated


def seconds(do: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = do()
    return time.perf_counter() - start, result


def measure(
    model: ResidentModel, asked: tuple[list[Instance], list[Instance]], repeats: int
) -> dict[str, float]:
    """The best of ``repeats`` candidates, after one that does not count."""
    rows = []
    for i in range(repeats + 1):
        update, _ = seconds(lambda i=i: model.load(recipe(0.3 + 0.1 * i)))
        lm = model.lm(32)
        generate, answers = seconds(lambda lm=lm: lm.generate_until(asked[0], disable_tqdm=True))
        rate, _ = seconds(lambda lm=lm: lm.loglikelihood(asked[1], disable_tqdm=True))
        made = sum(len(lm.tok_encode(text)) for text in answers)
        rows.append(
            {
                "update": update,
                "generate": generate,
                "log-likelihood": rate,
                "candidate": update + generate + rate,
                "tokens/s": made / generate,
            }
        )
    return min(rows[1:], key=lambda row: row["candidate"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        one = options.model or small_model(Path(name) / "one")
        models = (("one", str(one)), ("two", str(with_noise(one, Path(name) / "two"))))
        asked = requests(options.items, options.tokens, is_small=options.model is None)
        threads = int(os.environ["OMP_NUM_THREADS"])
        print(f"{one.name}, {options.dtype}, {options.items} items, {threads} threads")
        for engine in ("transformers", "vllm"):
            arguments = CPU if engine == "vllm" and not torch.cuda.is_available() else {}
            torch.set_num_threads(threads)
            settings = ModelSettings(models, Path(), "auto", options.dtype, threads, arguments)
            model = resident_model(engine, settings)
            start, _ = seconds(lambda model=model: model.load(recipe(0.2)))
            with torch.inference_mode():
                row = measure(model, asked, options.repeats)
            model.close()
            print(
                f"{engine:13}" + "".join(f"  {k} {v:8.3f}" for k, v in row.items()) + f"  start {start:.1f}"
            )


if __name__ == "__main__":
    main()
