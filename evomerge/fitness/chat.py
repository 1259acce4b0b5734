"""Conversations as text: the chat template of a tokenizer, rendered as lm-eval's transformers model does.

Templates are untrusted code. transformers (5.x) renders them in Jinja's immutable sandbox, on plain values; a
text of the experiment goes the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import FitnessError, did_you_mean
from evomerge.fitness.chat_spec import ChatSettings
from evomerge.fitness.scored import short_digest
from evomerge.fitness.task_info import TaskInfo
from evomerge.tokenizers.chat_templates import CHAT_TEMPLATES, is_jinja

__all__ = ["ChatError", "ChatFormat", "Render", "as_json", "chat_warnings", "own_template", "template_digest"]

Render = Callable[..., str]
"""``render(messages, add_generation_prompt=True)``: what lm-eval's tasks take as ``chat_template``."""

_DATE = (
    *(("%d", "26"), ("%-d", "26"), ("%b", "Jul"), ("%B", "July"), ("%m", "07"), ("%-m", "7")),
    *(("%Y", "2024"), ("%y", "24"), ("%a", "Fri"), ("%A", "Friday"), ("%j", "208")),
    *(("%H", "12"), ("%I", "12"), ("%M", "00"), ("%S", "00"), ("%p", "PM")),
)
_FIXED_DATE = (
    "{% macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('{code}', '{text}')" for code, text in _DATE)
    + " }}{%- endmacro %}\n"
)
"""Stands before templates that ask for today's date: a prompt may not change from one day to the next.

It is the date that Llama 3.1's template takes where there is no clock. Prints nothing: the newline after a
block is dropped.
"""

_PROBE = "Answer the question."


class ChatError(FitnessError):
    """A chat template is missing or does not work: a matter of one model, where recipes differ in theirs."""


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """The conversations of one task with one tokenizer: a ``Render``. ``template`` is Jinja text."""

    template: str
    special_tokens: tuple[tuple[str, str], ...]
    _tokenizer: Any

    @classmethod
    def of(cls, settings: ChatSettings, tokenizer: Any, where: str) -> ChatFormat:
        """The format that ``settings`` ask for; ``where`` names the task.

        Raises:
            ChatError: There is no such template, or it has no system role and there is a system text.
        """
        template = _template(settings.template, tokenizer, where)
        if "strftime_now" in template:
            template = _FIXED_DATE + template
        special = tuple(sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items()))
        found = cls(template, special, tokenizer)
        if settings.system and not found.shows_system(settings.system):
            raise ChatError(
                f"{where}: chat.system",
                "the chat template has no system role: it leaves the system text out, or refuses it",
                "Leave chat.system out (the text may stand in the task's own prompt), or choose a template "
                "that has one.",
            )
        return found

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Equal keys make equal prompts: of the tokenizer only its special tokens take part."""
        return self.template, self.special_tokens

    def __call__(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The text of ``messages``; without ``add_generation_prompt`` the last of them is to be continued.

        As ``HFLM.apply_chat_template`` (0.4.13): where the template raises, again without system messages.

        Raises:
            ChatError: It raises again.
        """
        from jinja2 import TemplateError

        try:
            try:
                return self._text(messages, add_generation_prompt)
            except TemplateError:
                kept = [message for message in messages if message["role"] != "system"]
                return self._text(kept, add_generation_prompt)
        except Exception as error:
            raise ChatError("chat.template", f"{type(error).__name__}: {error}") from error

    def shows_system(self, system: str = _PROBE) -> bool:
        """Whether a conversation holds its ``system`` text."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "?"}]
        try:
            return system.strip() in self._text(messages, add_generation_prompt=True)
        except Exception:  # noqa: BLE001 (a template raises what it likes)
            return False

    def _text(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text


def as_json(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
    """Stands in for a template where prompts are compared without a tokenizer."""
    return json.dumps([list(messages), add_generation_prompt], ensure_ascii=False)


def own_template(tokenizer: Any) -> str | None:
    """The template that ``tokenizer`` uses by itself; ``None`` where it has none."""
    templates = tokenizer.chat_template
    if isinstance(templates, Mapping):
        templates = templates.get("default")
    return templates if isinstance(templates, str) and templates.strip() else None


def template_digest(settings: ChatSettings, tokenizer: Any) -> str:
    """A short digest of the template and special tokens that prompts are made with."""
    try:
        return short_digest(list(ChatFormat.of(settings, tokenizer, "").key))
    except ChatError:
        return "none"


def chat_warnings(info: TaskInfo, tokenizer: Any) -> list[str]:
    """What is worth a warning about the conversations of a task.

    Raises:
        ChatError: see ``ChatFormat.of``.
    """
    settings = info.chat
    if settings is None or not settings.applied:
        return []
    where, told = f"task {info.task!r}", []
    chat = ChatFormat.of(settings, tokenizer, info.task)
    if _template(settings.template, tokenizer, "") != own_template(tokenizer):
        told.append(
            f"{where} is asked with another chat template than the merged model's own, which is exported: "
            "chat_template in the recipe sets that"
        )
    if info.has_description and not chat.shows_system():
        told.append(f"{where}: its description is left out, as the chat template has no system role")
    return told


def _template(wanted: bool | str, tokenizer: Any, where: str) -> str:
    if wanted is True:
        template = own_template(tokenizer)
        if template is None:
            raise ChatError(f"{where}: chat.template", *_missing(tokenizer))
        return template
    name = str(wanted)
    if is_jinja(name):
        return name
    named = tokenizer.chat_template if isinstance(tokenizer.chat_template, Mapping) else {}
    known = {**CHAT_TEMPLATES, **named}
    if name not in known:
        own = ", ".join(named) or "none"
        hint = (
            f"{did_you_mean(name, known)} Of the tokenizer: {own}; well-known: {', '.join(CHAT_TEMPLATES)}."
        )
        raise ChatError(f"{where}: chat.template", f"there is no chat template {name!r}", hint)
    return str(known[name])


def _missing(tokenizer: Any) -> tuple[str, str]:
    if isinstance(tokenizer.chat_template, Mapping) and tokenizer.chat_template:
        names = ", ".join(tokenizer.chat_template)
        return (
            "the tokenizer has several chat templates, and none is the default",
            f"Name one of them: {names}.",
        )
    return (
        "the tokenizer has no chat template",
        "Set chat_template in the recipe (auto, or a format such as chatml), so that it is exported, too; or "
        "name a format here, for models that have none; or set chat: false.",
    )
