"""A tiny random model, a character tokenizer, and real lm-eval tasks of all four output types."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once

import torch

from evomerge.fitness.resampling import EXACT_AGGREGATIONS
from evomerge.fitness.scores import ItemScore

N_ITEMS = 40
ALPHABET = "abcdefgh"


def definition(
    task: str, output_type: str, asks: str, target: str, more: str, files: str = "test: text.jsonl"
) -> str:
    """The YAML of a task over ``files``; ``asks`` and ``target`` are its templates."""
    return f"""\
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{{files}}}}}
test_split: test
output_type: {output_type}
doc_to_text: "{asks}"
doc_to_target: {target}
{more}"""


CHOICE = definition(
    "t_choice",
    "multiple_choice",
    "{{question}}",
    "answer",
    """\
tag: t_tag
fewshot_split: train
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
""",
    files="train: fewshot.jsonl, test: choice.jsonl",
)

BINARY = definition(
    "t_binary",
    "multiple_choice",
    "{{question}}",
    "answer",
    """\
doc_to_choice: ["no", "yes"]
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
""",
    files="test: binary.jsonl",
)


def generation(task: str, more: str) -> str:
    """The YAML of a task whose answers are generated."""
    return definition(task, "generate_until", "{{text}}>", '"{{target}}"', more)


GENERATE = generation(
    "t_generate",
    """\
tag: [t_tag, t_other]
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
filter_list:
  - name: first-letter
    filter: [{function: regex, regex_pattern: "([a-h])"}, {function: take_first}]
  - name: strict
    filter: [{function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
  - {metric: chrf, aggregation: chrf, higher_is_better: true}
""",
)

LIKELIHOOD = definition(
    "t_likelihood",
    "loglikelihood",
    "{{text}}",
    '"{{target}}"',
    """\
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
)

ROLLING = definition(
    "t_rolling",
    "loglikelihood_rolling",
    "",
    '"{{long}}"',
    """\
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
)

SAMPLED = generation(
    "t_sampled",
    """\
repeats: 3
generation_kwargs: {until: ["\\n"], max_gen_toks: 2, do_sample: true, temperature: 1.0}
filter_list:
  - name: majority
    filter: [{function: majority_vote}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
)

CUSTOM = generation(
    "t_custom",
    """\
generation_kwargs: {until: ["\\n"], max_gen_toks: 3}
process_results: !function custom.process_results
metric_list:
  - {metric: letters, aggregation: !function custom.longest, higher_is_better: true}
  - {metric: some, aggregation: nanmean, higher_is_better: true}
  - {metric: never, aggregation: mean, higher_is_better: true}
""",
)

CUSTOM_PY = """\
import math


def process_results(doc, results):
    doc["text"] = doc.pop("target")  # tasks may do this to their document
    return {
        "letters": {"length": len(set(results[0]))},
        "some": float(len(results[0])) if "a" in doc["text"] else math.nan,
        "undeclared": float(len(results[0])),
    }


def longest(items):
    return max(item["length"] for item in items)
"""

GROUP = "group: t_group\ntask: [t_likelihood, t_rolling]\n"


def documents(kind: str, n: int = N_ITEMS, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(f"{kind} {seed}")
    if kind == "choice":
        return [
            {
                "question": f"{i} " + "".join(rng.choices(ALPHABET, k=rng.randint(3, 12))),
                "choices": rng.sample(["ab", "cde", "f", "gh a"], 3),
                "answer": rng.randrange(3),
            }
            for i in range(n)
        ]
    return [
        {
            "text": f"{i} " + "".join(rng.choices(ALPHABET, k=rng.randint(2, 9))),
            "target": rng.choice(ALPHABET),
            "long": " ".join("".join(rng.choices(ALPHABET, k=4)) for _ in range(rng.randint(2, 30))),
        }
        for i in range(n)
    ]


def value_of(items: Sequence[ItemScore], aggregation: str) -> float:
    """What lm-eval's ``aggregation`` makes of ``items``, where that follows from them."""
    if aggregation not in EXACT_AGGREGATIONS:
        raise ValueError(f"the value of {aggregation!r} does not follow from the items")
    ratio = sum(item.value for item in items) / sum(item.weight for item in items)
    of_ratio = {"perplexity": math.exp(-ratio), "weighted_perplexity": math.exp(-ratio)}
    return {**of_ratio, "bits_per_byte": -ratio / math.log(2)}.get(aggregation, ratio)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_tokenizer(**special: str) -> Any:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<unk>", *(chr(code) for code in range(32, 127)), "\n"]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_model(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,  # random, but with opinions
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # it prefers the letters of the tasks, so that some answers are right
        letters = [4 + ord(letter) - 32 for letter in ALPHABET]
        others = [token for token in range(100) if token not in letters]
        model.lm_head.weight[others] *= 0.1
    return model
