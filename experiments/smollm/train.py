"""Train one expert as a LoRA adapter: python train.py {arithmetic,language} [--out FOLDER].

Only the answers are learned, each line counting alike. The learning rate is low and the steps are few, so
that the expert stays near the base: experts that are driven far from it do not merge. Takes ten minutes on
one core, needs ``peft``; get_model.py makes the base.
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from data import build
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
BASE = HERE / "base"
BATCH = 16
WARM_UP = 20
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Plan:
    """How an expert is trained; ``layers`` are those that get an adapter."""

    layers: range
    steps: int
    rate: float
    rank: int = 8
    seed: int = 1


PLANS = {
    "arithmetic": Plan(layers=range(10, 30), steps=300, rate=3e-4),
    "language": Plan(layers=range(20), steps=70, rate=5e-4),
}

Line = tuple[list[int], list[int]]


def batches(lines: list[Line], rng: random.Random) -> Iterator[list[Line]]:
    """Endless batches of lines of about one length, in random order."""
    while True:
        order = rng.sample(lines, len(lines))
        for start in range(0, len(order), 8 * BATCH):
            block = sorted(order[start : start + 8 * BATCH], key=lambda line: len(line[0]) + len(line[1]))
            group = [block[i : i + BATCH] for i in range(0, len(block), BATCH)]
            yield from rng.sample(group, len(group))


def loss_of(model: torch.nn.Module, batch: list[Line]) -> torch.Tensor:
    """Mean over the lines of the mean over the tokens of the answer; only answers meet the output head."""
    length = max(len(prompt) + len(answer) for prompt, answer in batch)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    target = torch.full_like(tokens, -100)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        target[row, len(prompt) : end] = torch.tensor(answer)
    # Filled up on the right: causal attention needs no mask.
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    learned = target[:, 1:] != -100
    share = (1 / learned.sum(1, keepdim=True) / len(batch)).expand(learned.shape)[learned]
    logits = model.lm_head(hidden[learned]).float()
    losses = torch.nn.functional.cross_entropy(logits, target[:, 1:][learned], reduction="none")
    return (losses * share).sum()


def rate_at(step: int, plan: Plan) -> float:
    """Linear warm-up, then half a cosine to a twentieth."""
    falling = 0.5 * (1 + math.cos(math.pi * step / plan.steps))
    return plan.rate * min(1, (step + 1) / WARM_UP) * max(0.05, falling)


def train(name: str, out: Path) -> None:
    """Train the expert and write its adapter in bfloat16."""
    plan = PLANS[name]
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16)
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=2 * plan.rank,
        target_modules=MODULES,
        layers_to_transform=list(plan.layers),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.0)
    lines = [
        (tokenizer(str(line["prompt"])).input_ids, tokenizer(f"{line['answer']}\n").input_ids)
        for line in build()[name]
    ]
    source = batches(lines, random.Random(plan.seed))
    start, mean = time.monotonic(), 0.0
    for step in range(plan.steps):
        optimizer.param_groups[0]["lr"] = rate_at(step, plan)
        loss = loss_of(base, next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 20 == 0:
            sys.stdout.write(f"{name}: step {step + 1}, loss {mean:.3f}, {time.monotonic() - start:.0f} s\n")
            sys.stdout.flush()
    model.peft_config["default"].base_model_name_or_path = "../base"
    model.save_pretrained(out)
    file = out / "adapter_model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, {"format": "pt"})
    (out / "README.md").unlink(missing_ok=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("expert", choices=PLANS)
    parser.add_argument("--out", type=Path, help="default: the folder of the expert beside this file")
    arguments = parser.parse_args()
    train(arguments.expert, arguments.out or HERE / arguments.expert)


if __name__ == "__main__":
    main()
