"""A transformers model as lm-eval itself asks it: no progress bars, a time limit, finite logits."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessor, LogitsProcessorList

from evomerge.backends.out_of_memory import with_halved_batches
from evomerge.errors import FitnessError
from evomerge.fitness.askable import BatchSize, NonFiniteLogitsError
from evomerge.fitness.deadline import Deadline
from evomerge.fitness.generation_spec import OWN_KEYS

__all__ = ["LoadedModel", "TransformersLM", "context_length", "with_padding"]


_AUTO = 16
"""Sequences in a pass where none are given; lm-eval's own ``auto`` depends on what memory is free."""


class LoadedModel:
    """A transformers model and its tokenizer, ready to be asked as lm-eval does: an ``Askable``."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def lm(self, batch_size: BatchSize, deadline: Deadline | None = None) -> TransformersLM:
        """As ``Askable.lm``; puts the model into eval mode.

        Raises:
            FitnessError: The tokenizer has no end-of-text token.
        """
        return TransformersLM(self.model.eval(), self._padded, batch_size, deadline)

    @cached_property
    def _padded(self) -> Any:
        return with_padding(self.tokenizer)  # once: copying a large one takes a while


class TransformersLM(HFLM):  # type: ignore[misc]
    """An ``HFLM`` around a model that is in memory. Cheap (0.2 ms): make one per use, keep none.

    Keeping one would keep the model's memory when its owner replaces the model. ``deadline`` is looked at
    before each forward pass, in generation before each token; what is past it raises its ``CandidateError``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        batch_size: BatchSize,
        deadline: Deadline | None = None,
    ) -> None:
        self._deadline = deadline
        self._batch_size = _AUTO if batch_size == "auto" else batch_size
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=self._batch_size,
        )

    pools = False
    """Other requests beside them could change the last bits of its answers, and no seed is read."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As ``EvalLM.loglikelihood``."""
        run = super().loglikelihood
        answers: list[tuple[float, bool]] = self._halving(requests, lambda: run(requests, disable_tqdm))
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """As ``EvalLM.loglikelihood_rolling``."""
        run = super().loglikelihood_rolling
        answers: list[float] = self._halving(requests, lambda: run(requests, disable_tqdm))
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """As ``EvalLM.generate_until``."""
        ends = [request.args[1].get("think_end_token") for request in requests]
        answers = [""] * len(requests)
        for end in dict.fromkeys(ends):
            places = [place for place, other in enumerate(ends) if other == end]
            asked = [_plain(requests[place]) for place in places]
            self.think_end_token = end
            try:
                found = self._generate(asked, disable_tqdm)
            except _BadPromptError as error:
                raise NonFiniteLogitsError(places[self._position(asked, error.tokens)]) from None
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _generate(self, requests: Sequence[Any], disable_tqdm: bool) -> list[str]:
        run = super().generate_until
        answers: list[str] = self._halving(requests, lambda: run(requests, disable_tqdm))
        return answers

    def _halving(self, requests: Sequence[Any], run: Callable[[], Any]) -> Any:
        def with_batch(size: int) -> Any:
            self.batch_size_per_gpu = size
            return run()

        return with_halved_batches(with_batch, self._batch_size, f"task {requests[0].task_name!r}")

    def _position(self, requests: Sequence[Any], tokens: list[int]) -> int:
        """Which request's prompt ends ``tokens`` (padding lies to the left); the first where none does."""
        for position, request in enumerate(requests):
            prompt = self.tok_encode(request.args[0])[-len(tokens) :]
            if prompt == tokens[-len(prompt) :]:
                return position
        return 0

    def _loglikelihood_tokens(
        self,
        requests: Any,
        disable_tqdm: bool = False,  # noqa: ARG002 (lm-eval's signature)
        override_bs: int | None = None,
    ) -> Any:
        # loglikelihood_rolling asks for one progress bar per batch, whatever its caller said (0.4.13).
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _model_call(self, *args: Any, **kwargs: Any) -> Any:
        if self._deadline is not None:
            self._deadline.check()
        return super()._model_call(*args, **kwargs)

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Any:
        watch = _FiniteLogits()
        processors = LogitsProcessorList([watch])
        if self._deadline is not None:
            self._deadline.check()
            processors.append(_InTime(self._deadline))
        generated = super()._model_generate(context, max_length, stop, logits_processor=processors, **kwargs)
        row = watch.first_bad_row(len(context))
        if row is not None:
            raise _BadPromptError(context[row].tolist())
        return generated


def _plain(request: Any) -> Any:
    """``request`` without the options that lm-eval and transformers do not know."""
    prompt, options, *rest = request.args
    if not any(key in options for key in OWN_KEYS):
        return request
    known = {key: value for key, value in options.items() if key not in OWN_KEYS}
    return replace(request, arguments=(prompt, known, *rest))


class _BadPromptError(Exception):
    """Logits that are not finite; holds the prompt's tokens, padded left."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class _FiniteLogits(LogitsProcessor):
    """Remembers which rows had logits that are not finite; changes nothing, costs one reduction a token.

    The maximum of a row is NaN if any logit is, and infinite if any is +inf or all are -inf; single -inf
    are what other processors write to forbid a token.
    """

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        bad = ~torch.isfinite(scores.amax(dim=-1))
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def first_bad_row(self, batch: int) -> int | None:
        if self._bad is None or not bool(self._bad.any()):
            return None
        beams = max(1, len(self._bad) // batch)
        return int(self._bad.nonzero()[0]) // beams


class _InTime(LogitsProcessor):
    """Raises when the time is over. ``max_time`` would end the answer instead, and a part be scored."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self._deadline.check()
        return scores


def context_length(config: Any, tokenizer: Any) -> int:
    """Tokens that a model of transformers' ``config`` reads at once, as ``HFLM.max_length`` says."""
    unset = types.SimpleNamespace(_max_length=None, model=types.SimpleNamespace(config=config))
    unset.tokenizer, unset._DEFAULT_MAX_LENGTH = tokenizer, HFLM._DEFAULT_MAX_LENGTH  # noqa: SLF001
    return int(HFLM.max_length.fget(unset))


def with_padding(tokenizer: Any) -> Any:
    """``tokenizer``, or a copy with a padding token if it has none; the caller's is never changed.

    Raises:
        FitnessError: it has no end-of-text token, without which lm-eval can neither stop nor pad.
    """
    if tokenizer.eos_token_id is None:
        raise FitnessError(
            "tokenizer",
            "it has no end-of-text token (eos_token), which lm-eval needs",
            "Take the tokenizer of a model that has one (tokenizer_source in the recipe).",
        )
    if tokenizer.pad_token_id is not None:
        return tokenizer
    padded = copy.deepcopy(tokenizer)
    padded.pad_token_id = padded.eos_token_id
    return padded
