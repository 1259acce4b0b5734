"""Chat templates: the well-known formats by name, and the one that most inputs share.

The templates are written for this project from the published descriptions of the formats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from evomerge.errors import CheckpointError, RecipeError, did_you_mean

__all__ = [
    "CHAT_TEMPLATES",
    "chat_template",
    "is_jinja",
    "jinja_fault",
    "most_common",
    "read_chat_template",
    "write_chat_template",
]

CHAT_TEMPLATES = {
    "alpaca": (
        "{{- bos_token -}}"
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        "{{ 'Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\\n\\n' }}{%- endif -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{{ message['content'] + '\\n\\n' }}"
        "{%- elif message['role'] == 'user' -%}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{%- else -%}{{ '### Response:\\n' + message['content'] + eos_token }}"
        "{%- if not loop.last -%}{{ '\\n\\n' }}{%- endif -%}"
        "{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '### Response:\\n' }}{%- endif -%}"
    ),
    "chatml": (
        "{%- for message in messages -%}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
    ),
    "llama3": (
        "{%- for message in messages -%}"
        "{%- if loop.first -%}{{ bos_token }}{%- endif -%}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
        " + message['content'] | trim + '<|eot_id|>' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
    ),
    "mistral": (
        "{{- bos_token -}}"
        "{%- set says = namespace(first='', next='user') -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' and loop.first -%}"
        "{%- set says.first = message['content'] + '\\n\\n' -%}"
        "{%- elif message['role'] != says.next -%}"
        "{{ raise_exception('mistral: a system message first, then user and assistant in turn') }}"
        "{%- elif message['role'] == 'user' -%}"
        "{{ ' [INST] ' + says.first + message['content'] + ' [/INST]' }}"
        "{%- set says.first = '' -%}{%- set says.next = 'assistant' -%}"
        "{%- else -%}"
        "{{ ' ' + message['content'] + eos_token }}{%- set says.next = 'user' -%}"
        "{%- endif -%}{%- endfor -%}"
    ),
    "exaone": (
        "{%- for message in messages -%}"
        "{%- if loop.first and message['role'] != 'system' -%}{{ '[|system|][|endofturn|]\\n' }}{%- endif -%}"
        "{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{%- if message['role'] != 'user' -%}{{ '[|endofturn|]' }}{%- endif -%}{{ '\\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '[|assistant|]' }}{%- endif -%}"
    ),
}
"""Jinja text of each format that recipes may name.

They render what the families' own templates do: Llama 3 (Instruct), Mistral 7B (Instruct v0.1 and v0.2),
EXAONE 3.0 and 3.5, the prompt of Stanford Alpaca (a system message takes the place of its first sentence) and
ChatML. The token that begins a text is the tokenizer's, once, where the family has one.
"""

_WORD = 40
"""A template is longer than this, or has a brace; anything else is taken for a name."""


def chat_template(setting: str) -> str:
    """The template that a recipe asks for by name or gives as Jinja text.

    Raises:
        RecipeError: It is neither.
    """
    if setting in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[setting]
    if not is_jinja(setting):
        hint = did_you_mean(setting, ["auto", *CHAT_TEMPLATES])
        raise RecipeError("chat_template", f"there is no chat template {setting!r}", hint)
    fault = jinja_fault(setting)
    if fault:
        raise RecipeError("chat_template", fault)
    return setting


def is_jinja(setting: str) -> bool:
    """Whether ``setting`` is the text of a template, not a name."""
    return "{" in setting or len(setting) > _WORD


def jinja_fault(setting: str) -> str:
    """Why the text of a template cannot be parsed; empty where it can, and for a name."""
    if not is_jinja(setting):
        return ""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        # Parsed, never rendered here; loop controls are what transformers allows besides.
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(
            setting.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        )
    except (TemplateSyntaxError, ValueError, OverflowError, RecursionError) as exception:
        return f"is not a Jinja template ({exception})"
    return ""


def most_common(templates: Sequence[str | None]) -> str | None:
    """The template that most of ``templates`` are; of several, the first. None where there is none."""
    given = [t for t in templates if t]
    return max(dict.fromkeys(given), key=given.count, default=None)


def read_chat_template(folder: Path) -> str | None:
    """The chat template of a model folder, from its own file or from the tokenizer's settings."""
    own = folder / "chat_template.jinja"
    try:
        if own.is_file():
            return own.read_text(encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    template = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(template, list):  # several, by name: the default one
        named = (e.get("template") for e in template if isinstance(e, dict) and e.get("name") == "default")
        template = next(named, None)
    return template if isinstance(template, str) else None


def write_chat_template(folder: Path, template: str) -> None:
    """Makes ``template`` the only chat template of the tokenizer in ``folder``.

    Raises:
        CheckpointError: The files cannot be written.
    """
    config = folder / "tokenizer_config.json"
    try:
        for file in folder.glob("chat_template*"):
            file.unlink()
        if config.is_file():
            document = json.loads(config.read_bytes())
            if isinstance(document, dict) and document.pop("chat_template", None) is not None:
                config.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    except (OSError, ValueError, RecursionError) as exception:
        raise CheckpointError(str(folder), f"its chat template cannot be replaced ({exception})") from None
