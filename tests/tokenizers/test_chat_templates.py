"""Chat templates: what the named formats make of a conversation, and which template is the most common."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizer_support import bpe, save

from evomerge.errors import RecipeError
from evomerge.tokenizers.chat_templates import (
    CHAT_TEMPLATES,
    chat_template,
    most_common,
    read_chat_template,
    write_chat_template,
)
from evomerge.tokenizers.vocabulary import load_tokenizer

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]
RENDERED = {
    "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA"
    "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>"
    "user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]",
    "exaone": "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]",
}


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_named_format_renders_a_conversation(tmp_path: Path, name: str) -> None:
    folder = save(bpe(["a+b"], ["</s>", "<s>"]), tmp_path / "t")
    write_chat_template(folder, chat_template(name))
    tokenizer = load_tokenizer(folder)
    tokenizer.bos_token = "<s>"
    text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert text == RENDERED[name]


def test_a_template_that_is_written_replaces_all_others(tmp_path: Path) -> None:
    folder = save(bpe([], chat_template="old"), tmp_path / "t")
    assert read_chat_template(folder) == "old"
    write_chat_template(folder, "new")
    assert read_chat_template(folder) == "new"
    assert load_tokenizer(folder).chat_template == "new"


def test_a_template_inside_the_settings_is_found_and_replaced(tmp_path: Path) -> None:
    folder = save(bpe([]), tmp_path / "t")
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().rstrip().rstrip("}") + ', "chat_template": "inside"}')
    assert read_chat_template(folder) == "inside"
    write_chat_template(folder, "new")
    assert "inside" not in config.read_text()
    assert load_tokenizer(folder).chat_template == "new"


def test_the_most_common_template_wins_and_of_equals_the_first() -> None:
    assert most_common(["a", "b", None, "b"]) == "b"
    assert most_common([None, "a", "b"]) == "a"
    assert most_common([None, ""]) is None


def test_names_and_templates_that_are_wrong_say_so() -> None:
    with pytest.raises(RecipeError, match=r"no chat template 'chatlm'\. Did you mean 'chatml'"):
        chat_template("chatlm")
    with pytest.raises(RecipeError, match="is no Jinja template"):
        chat_template("{% for m in messages %}{{ m }}")
    assert chat_template("{% for m in messages %}{{ m }}{% endfor %}").startswith("{% for")
