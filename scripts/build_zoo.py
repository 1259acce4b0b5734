"""Builds the zoo: a base model, three experts and their tasks, from nothing, in some minutes on one core.

The recipe imitates what fine-tuning does to large models. The base learns three skills (pre-training), then
is trained on something else until it half forgets them. Each expert wakes one skill again. What an expert
forgets of the other skills, a good merge gets back; how much of each expert is needed differs, so the
uniform average is not the best merge.

    python scripts/build_zoo.py [--out experiments/zoo] [--tasks fitness/zoo]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
LETTERS = "abcdefgh"
CHARACTERS = "\n 0123456789+=>:" + LETTERS + "ACMRSXYZ"
PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"
ITEMS = 750
"""Per skill: 150 for the search, 300 for validation, 300 for the test."""
HELD_OUT = 6
"""One of so many prompts is never trained on; items come from these."""


@dataclass(frozen=True)
class Example:
    """A prompt and its answer, which ends with a line break."""

    prompt: str
    answer: str

    @property
    def held_out(self) -> bool:
        """Whether the trainer never sees it."""
        return hashlib.sha256(self.prompt.encode()).digest()[0] % HELD_OUT == 0


Skill = Callable[[random.Random], Example]


def word(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 6)))


def add(rng: random.Random) -> Example:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    return Example(f"A{a}+{b}=", f"{a + b}\n")


def reverse(rng: random.Random) -> Example:
    text = word(rng)
    return Example(f"R{text}>", f"{text[::-1]}\n")


def sort(rng: random.Random) -> Example:
    text = word(rng)
    return Example(f"S{text}>", f"{''.join(sorted(text))}\n")


def majority(rng: random.Random) -> Example:
    """Not a scored skill: what the base is distracted with."""
    text = word(rng)
    return Example(f"M{text}>", f"{max(sorted(text), key=text.count)}\n")


def copy_word(rng: random.Random) -> Example:
    """Not a scored skill either."""
    text = word(rng)
    return Example(f"C{text}>", f"{text}\n")


SKILLS: dict[str, Skill] = {"add": add, "reverse": reverse, "sort": sort}
DISTRACTIONS: tuple[Skill, ...] = (majority, copy_word)


@dataclass(frozen=True)
class Phase:
    """One stretch of training."""

    skills: tuple[Skill, ...]
    steps: int
    rate: float
    seed: int


PRETRAINING = Phase(tuple(SKILLS.values()), 1500, 4e-3, 1)
FORGETTING = Phase(DISTRACTIONS, 200, 1e-3, 2)
EXPERTS = {
    "add": Phase((add,), 300, 1.5e-3, 3),  # unequal on purpose: the best weights are then unequal too
    "reverse": Phase((reverse,), 150, 1e-3, 4),
    "sort": Phase((sort,), 50, 1e-3, 5),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate((PAD, EOS, BOS, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(.|\n)"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        padding_side="left",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def make_model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)  # a script of its own: nothing else draws from this stream
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return LlamaForCausalLM(config)


def batches(
    phase: Phase, tokenizer: PreTrainedTokenizerFast, size: int = 128
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids padded on the right, and labels that count the answer only."""
    rng = random.Random(phase.seed)
    ids = tokenizer.get_vocab()
    for _ in range(phase.steps):
        rows = []
        while len(rows) < size:
            example = phase.skills[len(rows) % len(phase.skills)](rng)
            if not example.held_out:
                rows.append(example)
        width = max(len(e.prompt) + len(e.answer) for e in rows)
        tokens = torch.zeros(size, width, dtype=torch.long)
        labels = torch.full((size, width), -100, dtype=torch.long)
        for i, e in enumerate(rows):
            line = torch.tensor([ids[c] for c in e.prompt + e.answer])
            tokens[i, : len(line)] = line
            labels[i, len(e.prompt) : len(line)] = line[len(e.prompt) :]
        yield tokens, labels


def train(model: LlamaForCausalLM, phase: Phase, tokenizer: PreTrainedTokenizerFast) -> None:
    """AdamW with a linear warm-up and a cosine down to a tenth."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.rate, weight_decay=0.01, betas=(0.9, 0.98))
    for step, (tokens, labels) in enumerate(batches(phase, tokenizer)):
        share = step / phase.steps
        factor = min(1.0, (step + 1) / 20) * (
            0.1 + 0.45 * (1 + float(torch.cos(torch.tensor(torch.pi * share))))
        )
        for group in optimizer.param_groups:
            group["lr"] = phase.rate * factor
        logits = model(tokens[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def items(name: str, count: int = ITEMS) -> list[Example]:
    """Different examples of a skill that no trainer has seen."""
    rng = random.Random(f"items of {name}")
    found: dict[str, Example] = {}
    while len(found) < count:
        example = SKILLS[name](rng)
        if example.held_out:
            found.setdefault(example.prompt, example)
    return list(found.values())


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> float:
    """Exact match by teacher-forced argmax, which equals greedy decoding for it."""
    ids = tokenizer.get_vocab()
    width = max(len(e.prompt) + len(e.answer) for e in examples)
    tokens = torch.zeros(len(examples), width, dtype=torch.long)
    for i, e in enumerate(examples):
        tokens[i, : len(e.prompt) + len(e.answer)] = torch.tensor([ids[c] for c in e.prompt + e.answer])
    guessed = model(tokens).logits.argmax(-1)
    right = 0
    for i, e in enumerate(examples):
        start, end = len(e.prompt), len(e.prompt) + len(e.answer)
        right += bool((guessed[i, start - 1 : end - 1] == tokens[i, start:end]).all())
    return right / len(examples)


def make_zoo(tokenizer: PreTrainedTokenizerFast) -> dict[str, LlamaForCausalLM]:
    """The base and the experts, by name."""
    vocabulary = len(tokenizer.get_vocab())
    base = make_model(vocabulary)
    train(base, PRETRAINING, tokenizer)
    train(base, FORGETTING, tokenizer)
    zoo = {"base": base}
    for name, phase in EXPERTS.items():
        expert = make_model(vocabulary)
        expert.load_state_dict(base.state_dict())
        train(expert, phase, tokenizer)
        zoo[name] = expert
    return zoo


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, card: str) -> None:
    """A model folder as transformers writes it, in bfloat16."""
    shutil.rmtree(folder, ignore_errors=True)
    model.generation_config = GenerationConfig(
        pad_token_id=0, eos_token_id=1, bos_token_id=2, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def card_of(name: str) -> str:
    role = "the base, which half forgot three skills" if name == "base" else f"an expert in one skill: {name}"
    return (
        "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n"
        f"# zoo/{name}\n\nA Llama of 0.17 million parameters over characters: {role}. Made by\n"
        "`scripts/build_zoo.py` for the tests and the quickstart of evomerge: `experiments/zoo/README.md`.\n"
    )


def write_tasks(folder: Path) -> None:
    """The items of the four tasks; their definitions (YAML) lie beside them and are written by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("add", "reverse"):
        write_lines(
            folder / f"{name}.jsonl", [{"prompt": e.prompt, "answer": e.answer.strip()} for e in items(name)]
        )
    sortable = [e for e in items("sort", 3 * ITEMS) if len(near_orders(e.answer.strip())) >= 3]
    write_lines(folder / "sort.jsonl", [choices(e) for e in sortable[:ITEMS]])
    rng = random.Random("items of drift")
    write_lines(folder / "drift.jsonl", [{"text": mixed_text(rng)} for _ in range(200)])


def near_orders(letters: str) -> list[str]:
    """The orders that differ from ``letters`` by one swap of neighbours."""
    swapped = [letters[:i] + letters[i + 1] + letters[i] + letters[i + 2 :] for i in range(len(letters) - 1)]
    return [word for word in dict.fromkeys(swapped) if word != letters]


def choices(example: Example) -> dict[str, object]:
    """The sorted word among three orders of its letters that are nearly right."""
    rng = random.Random(f"choices of {example.prompt}")
    answer = example.answer.strip()
    listed = [answer, *rng.sample(near_orders(answer), 3)]
    rng.shuffle(listed)
    return {"prompt": example.prompt, "choices": listed, "answer": listed.index(answer)}


def mixed_text(rng: random.Random) -> str:
    """Two lines of text that a model with all skills finds likely."""
    lines = []
    for skill in rng.sample([*SKILLS.values(), copy_word], 2):
        example = skill(rng)
        while not example.held_out:
            example = skill(rng)
        lines.append(example.prompt + example.answer)
    return "".join(lines)


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the zoo of tiny models and its tasks.")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "zoo")
    parser.add_argument("--tasks", type=Path, default=ROOT / "fitness" / "zoo")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    write_tasks(arguments.tasks)
    examples = {name: items(name) for name in SKILLS}
    print(f"{'model':10}" + "".join(f"{name:>10}" for name in SKILLS) + f"{'mean':>10}")
    for name, model in make_zoo(tokenizer).items():
        scores = [accuracy(model, examples[skill], tokenizer) for skill in SKILLS]
        print(f"{name:10}" + "".join(f"{s:10.3f}" for s in (*scores, sum(scores) / len(scores))))
        save(model, tokenizer, arguments.out / name, card_of(name))


if __name__ == "__main__":
    main()
