"""The requests that lm-eval makes of an item: lengths of prompts and answers, sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import normalize_gen_kwargs

from evomerge.errors import FitnessError
from evomerge.fitness.generation_spec import LENGTH_KEYS

__all__ = ["check_room", "is_cut", "is_sampled", "random_stream", "token_count", "with_answer_cap"]


def check_room(where: str, context: int, instances: Sequence[Instance]) -> None:
    """Check that the longest answer fits into ``context`` tokens; ``where`` names the task.

    Raises:
        FitnessError: It does not.
    """
    longest = max((_answer_length(i) for i in instances if i.request_type == "generate_until"), default=0)
    if longest >= context:
        raise FitnessError(
            where,
            f"answers of {longest} tokens do not fit into the model's context of {context}",
            "Set fitness.max_gen_toks, or max_gen_toks in the generation options of the task.",
        )


def token_count(tokenizer: Any, instance: Instance) -> int:
    """Tokens of what the model reads, without special ones."""
    return len(tokenizer.encode("".join(_texts(instance)), add_special_tokens=False))


def with_answer_cap(instance: Instance, cap: int) -> Instance:
    """A request whose answer has at most ``cap`` tokens."""
    if instance.request_type != "generate_until":
        return instance
    prompt, kwargs, *rest = instance.args
    kept = {key: value for key, value in kwargs.items() if key not in LENGTH_KEYS}
    length = min(cap, _answer_length(instance))
    return replace(instance, arguments=(prompt, {**kept, "max_gen_toks": length}, *rest))


def is_cut(instances: Sequence[Instance], tokenizer: Any, context: int) -> bool:
    """Whether a context of so many tokens is too short for the prompt of one of ``instances``."""
    # Windows of a rolling log-likelihood lose nothing.
    asked = [i for i in instances if i.request_type != "loglikelihood_rolling"]
    # No text has more tokens than bytes: most need not be encoded.
    long = [i for i in asked if sum(len(part.encode()) for part in _texts(i)) + _reserved(i) > context]
    return any(token_count(tokenizer, i) + _reserved(i) > context for i in long)


@contextmanager
def random_stream(calls: Sequence[Instance], device: torch.device, seed: int) -> Iterator[None]:
    """Where an answer of ``calls`` is sampled, torch draws from ``seed``; the global stream is not moved."""
    if not any(is_sampled(call) for call in calls):
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def is_sampled(call: Instance) -> bool:
    """Whether its answer is drawn at random."""
    generates = call.request_type == "generate_until"
    return bool(generates and normalize_gen_kwargs(call.args[1]).get("do_sample"))


def _answer_length(instance: Instance) -> int:
    return int(normalize_gen_kwargs(instance.args[1])["max_gen_toks"])


def _reserved(instance: Instance) -> int:
    """Tokens of the context that the prompt may not take, as the answer needs them."""
    return _answer_length(instance) if instance.request_type == "generate_until" else 0


def _texts(instance: Instance) -> list[str]:
    """What the model reads: the prompt, and the answer where it is given."""
    return [part for part in instance.args[:2] if isinstance(part, str)]
