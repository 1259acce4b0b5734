"""The model as a Python task asks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance

from evomerge.errors import CandidateError, FailureKind, FitnessError
from evomerge.fitness.answering import Request, answer
from evomerge.fitness.askable import EvalLM
from evomerge.fitness.chat import ChatError, ChatFormat
from evomerge.fitness.chat_spec import ChatSettings, chat_settings
from evomerge.fitness.spec import FitnessSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Conversation", "TaskLM"]

Conversation = str | Sequence[Mapping[str, str]]

_MODELS_OWN = ChatSettings(template=True, system=None, fewshot_as_multiturn=True)


class TaskLM:
    """A candidate's model: log-likelihoods and generation for a Python task.

    Requests of one call run in batches (``fitness.batch_size``), so a call with many is faster than many
    calls. All calls raise ``CandidateError`` where logits are not finite, or memory or time do not suffice:
    let it pass.
    """

    def __init__(self, lm: EvalLM, task: str, where: str, fitness: FitnessSpec) -> None:
        self._lm = lm
        self._task = task
        self._where = where
        self._fitness = fitness
        given = chat_settings(fitness.chat, None)
        self._chat = given if given is not None and given.applied else _MODELS_OWN

    def loglikelihood(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation) log p(continuation | context), and whether it is greedy."""
        asked = [(_text(context), _text(continuation)) for context, continuation in pairs]
        return [(float(value), bool(greedy)) for value, greedy in self._answers("loglikelihood", asked)]

    def rolling(self, texts: Iterable[str]) -> list[float]:
        """For each text log p(text), in windows where it is longer than the context."""
        return [
            float(value) for value in self._answers("loglikelihood_rolling", [(_text(t),) for t in texts])
        ]

    def generate(
        self,
        prompts: Iterable[str],
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        temperature: float = 0.0,
    ) -> list[str]:
        """The answer to each prompt, up to one of the texts ``stop`` (left out) or the end-of-text token.

        ``temperature`` 0 is greedy; above, answers are drawn, the same ones for the same call.
        ``fitness.max_gen_toks`` caps ``max_tokens``, and ``fitness.think_end_token`` cuts answers.

        Raises:
            FitnessError: So many tokens do not fit into the model's context.
        """
        cap, think_end = self._fitness.max_gen_toks, self._fitness.think_end_token
        length = max_tokens if cap is None else min(max_tokens, cap)
        if length >= self.max_length:
            raise FitnessError(
                self._where,
                f"lm.generate(max_tokens={max_tokens}) does not fit into the model's context of "
                f"{self.max_length} tokens",
                "Ask for fewer, or set fitness.max_gen_toks.",
            )
        until = [stop] if isinstance(stop, str) else [_text(each) for each in stop]
        options: dict[str, Any] = {"until": until, "max_gen_toks": length, "do_sample": temperature > 0}
        if temperature > 0:
            options["temperature"] = float(temperature)
        if think_end is not None:
            options["think_end_token"] = think_end
        return [str(text) for text in self._answers("generate_until", [(_text(p), options) for p in prompts])]

    def chat(
        self,
        conversations: Iterable[Conversation],
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        temperature: float = 0.0,
    ) -> list[str]:
        """The answer to each conversation: ``generate`` on its ``prompt``."""
        prompts = [self.prompt(conversation) for conversation in conversations]
        return self.generate(prompts, max_tokens, stop, temperature)

    def prompt(self, conversation: Conversation) -> str:
        """The text of a conversation up to the answer: messages with role and content, or one question.

        Its template is that of ``fitness.chat``, else the model's own; the system text of ``fitness.chat``
        comes first where no message is of the system. A last message of the assistant is to be continued.

        Raises:
            CandidateError: The model has no chat template, or it fails.
        """
        messages: list[Mapping[str, str]] = (
            [{"role": "user", "content": conversation}] if isinstance(conversation, str) else [*conversation]
        )
        system = self._chat.system
        if system and all(message["role"] != "system" for message in messages):
            messages.insert(0, {"role": "system", "content": system})
        try:
            return self._format(messages, add_generation_prompt=messages[-1]["role"] != "assistant")
        except ChatError as error:
            raise CandidateError(FailureKind.EVALUATION, str(error)) from None

    def count_tokens(self, text: str) -> int:
        """How many tokens the model makes of ``text``."""
        return len(self._lm.tok_encode(_text(text)))

    @property
    def max_length(self) -> int:
        """Tokens of the context, prompt and answer together."""
        return self._lm.max_length

    @property
    def model(self) -> torch.nn.Module | None:
        """The transformers model, where the engine has one in this process; leave it as it is.

        For what requests cannot say: hidden states for a classifier, latency.
        """
        import torch

        found = getattr(self._lm, "model", None)
        return found if isinstance(found, torch.nn.Module) else None

    @cached_property
    def _format(self) -> ChatFormat:
        return ChatFormat.of(self._chat, self._lm.tokenizer, self._where)

    def _answers(self, kind: str, asked: Sequence[tuple[Any, ...]]) -> list[Any]:
        requests = [
            Request(self._task, f"{n} of {len(asked)} in lm.{_CALLS[kind]}", self._instance(kind, args, n))
            for n, args in enumerate(asked)
        ]
        if requests:
            answer(self._lm, requests)
        return [request.instance.resps[0] for request in requests]

    def _instance(self, kind: str, arguments: tuple[Any, ...], number: int) -> Instance:
        return Instance(
            request_type=kind, doc={}, arguments=arguments, idx=0, metadata=(self._task, number, 1)
        )


_CALLS = {"loglikelihood": "loglikelihood", "loglikelihood_rolling": "rolling", "generate_until": "generate"}


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(f"expected a text, got {type(given).__name__}")
    return given
