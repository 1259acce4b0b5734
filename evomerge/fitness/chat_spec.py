"""The ``chat`` section of a fitness, or of one task: whether prompts are conversations, and how they look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator, model_validator

from evomerge.fitness.scored import short_digest
from evomerge.tokenizers.chat_templates import is_jinja, jinja_fault

__all__ = ["ChatSettings", "ChatSpec", "chat_settings"]

_SHOWN = 80
"""Longest system text that is kept as it is, in characters."""


@dataclass(frozen=True)
class ChatSettings:
    """How the prompts of one task are made; every default is filled in.

    ``template``: ``True`` is the tokenizer's own, a text is the name of one or Jinja, ``False`` is none (then
    there is a ``system`` text, which stands in front of the prompt).
    """

    template: bool | str
    system: str | None
    fewshot_as_multiturn: bool

    @property
    def applied(self) -> bool:
        """Whether prompts are conversations."""
        return self.template is not False

    def __str__(self) -> str:
        """One line for a person."""
        if not self.applied:
            return "a system text, no chat template"
        if self.template is True:
            template = "the model's chat template"
        elif is_jinja(str(self.template)):
            template = "the experiment's chat template"
        else:
            template = f"the chat template {self.template}"
        turns = "examples as turns" if self.fewshot_as_multiturn else "examples in one turn"
        return ", ".join([template, *(["a system text"] if self.system else []), turns])

    @property
    def details(self) -> str:
        """For digests: what ``str`` says, and the system text, cut where it is long."""
        if self.system is None:
            return str(self)
        if len(self.system) <= _SHOWN:
            return f"{self}: {self.system!r}"
        return f"{self}: {self.system[:_SHOWN]!r}... ({short_digest(self.system)})"


class ChatSpec(BaseModel):
    """How chat models are asked. In a task, a field that is not given is as for all tasks.

    ``true`` and a name stand for the template alone, ``false`` for no chat at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: StrictBool | StrictStr | None = Field(
        default=None,
        description="true: the chat template of the merged model, as it will be exported; a name: that one "
        "of the tokenizer's templates, or a well-known format; Jinja text: in place of the model's; false: "
        "none, so that the system text is put in front of a plain prompt.",
    )
    system: str | None = Field(
        default=None, description="Text of the system role, before a task's own description."
    )
    fewshot_as_multiturn: StrictBool | None = Field(
        default=None,
        description="Whether solved examples are turns of the conversation, or all in one question.",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_template(cls, given: Any) -> Any:
        if given is False:
            return {"template": False, "system": "", "fewshot_as_multiturn": False}
        return {"template": given} if given is True or isinstance(given, str) else given

    @field_validator("template")
    @classmethod
    def _template_that_can_be(cls, template: bool | str | None) -> bool | str | None:
        if isinstance(template, str):
            fault = "is empty" if not template.strip() else jinja_fault(template)
            if fault:
                raise ValueError(fault)
        return template

    @model_validator(mode="after")
    def _turns_need_a_template(self) -> Self:
        if self.template is False and self.fewshot_as_multiturn:
            raise ValueError("fewshot_as_multiturn needs a chat template")
        return self


def chat_settings(general: ChatSpec | None, own: ChatSpec | None) -> ChatSettings | None:
    """What is true for a task with its ``own`` section; ``None`` where nothing is asked for."""
    given = [spec for spec in (own, general) if spec is not None]
    if not given:
        return None

    def first(name: str) -> Any:
        return next((value for spec in given if (value := getattr(spec, name)) is not None), None)

    template, system, turns = first("template"), first("system") or None, first("fewshot_as_multiturn")
    if template is False:
        return None if system is None else ChatSettings(template, system, fewshot_as_multiturn=False)
    return ChatSettings(template or True, system, turns is not False)
