"""Chat templates: what the named formats make of a conversation, and which template is the most common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

ASKED = [{"role": "user", "content": "U"}]
TALK = [
    {"role": "system", "content": "S"},
    *ASKED,
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]
ANSWERED = [*TALK, {"role": "assistant", "content": "B"}]
PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)


def llama3(*turns: str) -> str:
    said = (turn.split(":") for turn in turns)
    return "<s>" + "".join(f"<|start_header_id|>{r}<|end_header_id|>\n\n{c}<|eot_id|>" for r, c in said)


def chatml(*turns: str) -> str:
    return "".join("<|im_start|>{}\n{}<|im_end|>\n".format(*turn.split(":")) for turn in turns)


TURNS = ("system:S", "user:U", "assistant:A", "user:V")
OPEN = {"llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n", "chatml": "<|im_start|>assistant\n"}
S_TO_V = "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]"
RENDERED = {
    # one question, one question to be answered, a talk to be answered, a talk that is complete
    "alpaca": (
        f"<s>{PREAMBLE}### Instruction:\nU\n\n",
        f"<s>{PREAMBLE}### Instruction:\nU\n\n### Response:\n",
        "<s>S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
        "<s>S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\nB</s>",
    ),
    "chatml": (
        chatml("user:U"),
        chatml("user:U") + OPEN["chatml"],
        chatml(*TURNS) + OPEN["chatml"],
        chatml(*TURNS, "assistant:B"),
    ),
    "llama3": (
        llama3("user:U"),
        llama3("user:U") + OPEN["llama3"],
        llama3(*TURNS) + OPEN["llama3"],
        llama3(*TURNS, "assistant:B"),
    ),
    "mistral": (
        "<s> [INST] U [/INST]",
        "<s> [INST] U [/INST]",
        "<s> [INST] S\n\nU [/INST] A</s> [INST] V [/INST]",
        "<s> [INST] S\n\nU [/INST] A</s> [INST] V [/INST] B</s>",
    ),
    "exaone": (
        "[|system|][|endofturn|]\n[|user|]U\n",
        "[|system|][|endofturn|]\n[|user|]U\n[|assistant|]",
        S_TO_V,
        f"{S_TO_V}B[|endofturn|]\n",
    ),
}


def with_template(tmp_path: Path, name: str, bos: str = "<s>") -> Any:
    """A tokenizer that itself begins every text with ``bos``, and has the named template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = bpe(["a+b"], ["</s>", bos])
    tokenizer.bos_token = bos
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
    )
    folder = save(tokenizer, tmp_path / "t")
    write_chat_template(folder, chat_template(name))
    return load_tokenizer(folder)


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_named_format_renders_what_the_family_publishes(tmp_path: Path, name: str) -> None:
    tokenizer = with_template(tmp_path, name)
    given = ((ASKED, False), (ASKED, True), (TALK, True), (ANSWERED, False))
    for (talk, is_open), want in zip(given, RENDERED[name], strict=True):
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=is_open)
        assert text == want


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_token_that_begins_a_text_is_the_tokenizers_and_comes_once(tmp_path: Path, name: str) -> None:
    tokenizer = with_template(tmp_path, name, "<|begin_of_text|>")
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    has_bos = RENDERED[name][0].startswith("<s>")
    assert ids.count(tokenizer.bos_token_id) == has_bos
    assert (ids[0] == tokenizer.bos_token_id) == has_bos
    assert "<s>" not in tokenizer.apply_chat_template(TALK, tokenize=False)


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_tokenizer_without_a_token_that_begins_a_text_gets_none(tmp_path: Path, name: str) -> None:
    folder = save(bpe(["a+b"]), tmp_path / "t")
    write_chat_template(folder, chat_template(name))
    text = load_tokenizer(folder).apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert text == RENDERED[name][1].removeprefix("<s>")


def test_llama3_trims_what_is_said_and_others_do_not(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": " U\n"}]
    texts = {
        n: with_template(tmp_path / n, n).apply_chat_template(talk, tokenize=False) for n in CHAT_TEMPLATES
    }
    assert [name for name, text in texts.items() if " U\n" not in text] == ["llama3"]


@pytest.mark.parametrize(
    "roles", [["assistant"], ["user", "user"], ["user", "system"], ["system", "assistant"]]
)
def test_mistral_takes_turns_as_the_published_template_does(tmp_path: Path, roles: list[str]) -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="user and assistant in turn"):
        with_template(tmp_path, "mistral").apply_chat_template(
            [{"role": role, "content": "x"} for role in roles], tokenize=False
        )


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
    with pytest.raises(RecipeError, match="is not a Jinja template"):
        chat_template("{% for m in messages %}{{ m }}")
    assert chat_template("{% for m in messages %}{{ m }}{% endfor %}").startswith("{% for")
