"""Chat tokenizers of a few characters, and tasks of every kind with a split for examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fitness_support import CHOICE, GENERATE, LIKELIHOOD, ROLLING, documents, make_tokenizer, write_jsonl

SYSTEM = "Be brief."

TURNS = (
    "{%- for message in messages -%}"
    "{{ '<' + message['role'][0] + '>' + message['content'] + eos_token }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<a>' }}{%- endif -%}"
)
"""Has a system role."""

NO_SYSTEM = TURNS.replace(
    "{{ '<' +",
    "{%- if message['role'] == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}{{ '<' +",
)
"""Refuses one."""

SILENT = TURNS.replace("messages -%}", "messages if message['role'] != 'system' -%}")
"""Leaves it out."""

FILES = "data_files: {test: text.jsonl}"
FEWSHOT = "data_files: {train: text_fewshot.jsonl, test: text.jsonl}"

INPUTS = """\
task: t_inputs
dataset_path: json
dataset_kwargs: {data_files: {train: fewshot.jsonl, test: choice.jsonl}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: answer
doc_to_target: "{{question}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
"""Each choice is the beginning, and what follows is the same (as in Winogrande)."""


def make_chat_tokenizer(template: Any = TURNS) -> Any:
    """A tokenizer of characters with a chat ``template``: a text, several by name, or ``None``."""
    tokenizer = make_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = template
    return tokenizer


def write_chat_tasks(folder: Path, **changed: str) -> Path:
    """Tasks of all kinds into ``folder``, with the lines ``changed`` (``gen_prefix: text``) in each."""
    definitions = {
        "choice": CHOICE,
        "inputs": INPUTS,
        **{
            name: text.replace(FILES, FEWSHOT) + "fewshot_split: train\n"
            for name, text in (("generate", GENERATE), ("likelihood", LIKELIHOOD), ("rolling", ROLLING))
        },
    }
    for name, text in definitions.items():
        lines = [line for line in text.splitlines() if line.split(":")[0] not in changed]
        lines += [f"{key}: {value}" for key, value in changed.items()]
        (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_jsonl(folder / "choice.jsonl", documents("choice"))
    write_jsonl(folder / "fewshot.jsonl", documents("choice", 12, seed=2))
    write_jsonl(folder / "text.jsonl", documents("text"))
    write_jsonl(folder / "text_fewshot.jsonl", documents("text", 12, seed=2))
    return folder
