"""lm-eval's view of a model that vLLM runs: the requests of lm-eval's ``HFLM``, the answers of vLLM."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from evomerge.backends.answer_text import answer_text
from evomerge.backends.vllm_engine import RATED, Answer, Request
from evomerge.errors import FitnessError, did_you_mean
from evomerge.fitness.answering import SEED
from evomerge.fitness.askable import NonFiniteLogitsError

__all__ = ["Ask", "VllmLM"]

Ask = Callable[[Sequence[Request]], list[Answer]]

_ALL_AT_ONCE = 2**31
"""vLLM makes its own batches."""
_SETTINGS = ("top_p", "top_k", "min_p", "repetition_penalty")
"""What transformers and vLLM call by one name and mean alike."""
_TOP_K = 50
"""Of how many tokens transformers samples where nothing is said."""


class VllmLM(HFLM):  # type: ignore[misc]
    """An ``HFLM`` whose forward passes are vLLM's: tokens, windows and limits are those of lm-eval.

    ``shell`` is the transformers model without weights, for its configuration. All requests of a call go to
    vLLM at once, which makes batches of them.
    """

    pools = True
    """vLLM makes batches of all requests, and draws each sampled answer from its own seed."""

    def __init__(self, shell: torch.nn.Module, tokenizer: Any, ask: Ask, max_length: int) -> None:
        super().__init__(
            pretrained=shell, tokenizer=tokenizer, batch_size=_ALL_AT_ONCE, max_length=max_length
        )
        self._ask = ask

    @property
    def device(self) -> torch.device:
        """As ``EvalLM.device``: of this process; vLLM samples by the seeds of the requests."""
        return torch.device("cpu")

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,  # noqa: ARG002 (lm-eval's signature)
        override_bs: int | None = None,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        places: dict[
            tuple[int, ...], int
        ] = {}  # of each prompt: the choices of an item may be asked for twice
        prompts = [tuple((context + answer)[-(self.max_length + 1) :]) for _, context, answer in requests]
        for prompt in prompts:
            places.setdefault(prompt, len(places))
        answers = self._ask([Request(list(prompt), RATED) for prompt in places])
        found = []
        for prompt, (_, _, continuation) in zip(prompts, requests, strict=True):
            answer = answers[places[prompt]]
            logprobs, greedy = answer.logprobs[-len(continuation) :], answer.greedy[-len(continuation) :]
            found.append(
                (math.fsum(logprobs) if all(map(math.isfinite, logprobs)) else math.nan, all(greedy))
            )
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """The answer to each request.

        Raises:
            NonFiniteLogitsError: While answering, logits were not finite.
            FitnessError: A task sets something for generation that vLLM does not know.
        """
        wanted = [self._wanted(*request.args) for request in requests]
        answers = self._ask([w.request for w in wanted])
        for position, answer in enumerate(answers):
            if not all(map(math.isfinite, answer.logprobs)):
                raise NonFiniteLogitsError(position)
        return [
            answer_text(self.tok_decode, answer.tokens, asked.until, asked.think_end)
            for asked, answer in zip(wanted, answers, strict=True)
        ]

    def _wanted(self, prompt: str, settings: dict[str, Any]) -> _Wanted:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        eos = self.tok_decode([self.eot_token_id], skip_special_tokens=False)
        until = handle_stop_sequences(kwargs.pop("until"), eos=eos)
        length, is_sampled = kwargs.pop("max_gen_toks"), kwargs.pop("do_sample", False)
        given = kwargs.pop("temperature", 0.0)
        seed, think_end = kwargs.pop("seed", SEED), kwargs.pop("think_end_token", None)
        temperature = given if is_sampled else 0.0
        other = [key for key in kwargs if key not in _SETTINGS]
        if other:
            raise FitnessError(
                "generation_kwargs",
                f"{other[0]!r} is not known to vLLM",
                did_you_mean(other[0], ("until", "max_gen_toks", "do_sample", "temperature", *_SETTINGS)),
            )
        sampling = {"temperature": temperature, "max_tokens": length, "logprobs": 0, **kwargs}
        if is_sampled:
            sampling = {"top_k": _TOP_K, **sampling, "seed": seed}
        sampling |= {
            "stop": [s for s in until if s],
            "stop_token_ids": self._ends,
            "skip_special_tokens": False,
        }
        tokens = self.tok_encode(prompt)[-(self.max_length - length) :]
        return _Wanted(Request(tokens, sampling), until, think_end)

    @property
    def _ends(self) -> list[int]:
        """The tokens at which transformers ends an answer."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


@dataclass(frozen=True)
class _Wanted:
    request: Request
    until: list[str]
    think_end: str | int | None
