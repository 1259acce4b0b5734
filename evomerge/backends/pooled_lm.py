"""A transformers model asked by our own batches: all requests together, sorted, nothing computed twice.

Encoding, chat templates and the meaning of every option are those of lm-eval's ``HFLM``, whose methods run
here; only how batches go through the model is ours.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomerge.backends.answer_text import answer_text
from evomerge.backends.architectures import Batching, batching_of, longest_shared
from evomerge.backends.batches import Batch, fill_rows
from evomerge.backends.decoding import Decoding, StopTexts, decoding_of
from evomerge.backends.forward_pass import ForwardPass, wanted_positions
from evomerge.backends.generation import BadLogitsError, Generator, Prompt
from evomerge.backends.out_of_memory import with_halved_batches
from evomerge.backends.pass_limits import limit_of
from evomerge.backends.shared_prefixes import Read, Tokens, plan_trees
from evomerge.backends.token_cache import TokenCache
from evomerge.backends.transformers_lm import TransformersLM, with_padding
from evomerge.fitness.askable import BatchSize, NonFiniteLogitsError, UnfitRequestError
from evomerge.fitness.deadline import Deadline
from evomerge.fitness.lm_eval_requests import is_sampled, random_stream

__all__ = ["PooledLM", "PooledModel"]

_CHUNK = 256
"""Positions whose probabilities are in memory at a time."""

_NO_ANSWER = "the tokenizer makes no tokens of its answer"
_NO_PROMPT = "the tokenizer makes no tokens of its prompt"


class PooledModel:
    """A transformers model and its tokenizer, ready to be asked in our own batches: an ``Askable``."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, tokens: TokenCache | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tokens = TokenCache(with_padding(tokenizer)) if tokens is None else tokens
        self._batching = batching_of(model)

    def lm(self, batch_size: BatchSize, deadline: Deadline | None = None) -> PooledLM:
        """As ``Askable.lm``; puts the model into eval mode."""
        return PooledLM(self.model.eval(), self.tokens, batch_size, deadline, self._batching)


class PooledLM(TransformersLM):
    """An ``EvalLM`` around a model that is in memory. Cheap: make one per use, keep none.

    Answers are a function of the weights, the requests and ``batch_size``. ``tokens`` may be used for one
    candidate after the other. What an architecture does not allow is done as ``HFLM`` does it.
    """

    pools = True

    def __init__(
        self,
        model: torch.nn.Module,
        tokens: TokenCache,
        batch_size: BatchSize,
        deadline: Deadline | None = None,
        batching: Batching | None = None,
    ) -> None:
        super().__init__(model, tokens.tokenizer, batch_size, deadline)
        self._tokens = tokens
        self._batching = batching_of(model) if batching is None else batching
        given = None if batch_size == "auto" else batch_size
        self._limit = self._largest_limit = limit_of(model, given)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """As ``HFLM.tok_encode``; each text is encoded once."""
        encode = super().tok_encode
        (found,) = self._tokens.tokens(
            (string, add_special_tokens), lambda: [encode(string, add_special_tokens, **kwargs)]
        )
        tokens: list[int] = (found[-left_truncate_len:] if left_truncate_len else found).tolist()
        return tokens

    def _encode_pair(self, context: str, continuation: str) -> Any:
        encode = super()._encode_pair
        return self._tokens.tokens(
            (context, continuation, self.backend), lambda: encode(context, continuation)
        )

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As ``EvalLM.loglikelihood``."""
        for position, request in enumerate(requests):
            # HFLM fails on these with an IndexError (lm-eval 0.4.13).
            if not request.args[0] and not self.tok_encode(request.args[1], add_special_tokens=False):
                raise UnfitRequestError(position, _NO_ANSWER)
        return super().loglikelihood(requests, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """As ``EvalLM.generate_until``; each sampled request is answered from its own seed."""
        known: dict[str, Decoding | None] = {}  # looking at a model's generation config takes a while
        keys = [json.dumps(request.args[1], sort_keys=True, default=str) for request in requests]
        for key, request in zip(keys, requests, strict=True):
            if key not in known:
                known[key] = self._decoding(request.args[1])
        ours = {n: known[key] for n, key in enumerate(keys)}
        answers = self._generate_theirs(requests, [n for n in ours if ours[n] is None], disable_tqdm)
        alike: dict[tuple[str, Decoding], list[int]] = {}
        for number, decoding in ours.items():
            if decoding is not None:
                # Equal prompts have equal answers, sampled ones where their seeds are equal.
                alike.setdefault((requests[number].args[0], decoding), []).append(number)
        if alike:
            found = self._halving(requests, functools.partial(self._generate_ours, alike))
            answers.update((n, found[numbers[0]]) for numbers in alike.values() for n in numbers)
        return [answers[number] for number in range(len(requests))]

    def _generate_ours(self, alike: Mapping[tuple[str, Decoding], Sequence[int]]) -> dict[int, str]:
        """The answers by our own loop, by the number of the first request of each group."""
        prompts = {
            numbers[0]: Prompt(numbers[0], self._prompt(numbers[0], text, decoding), decoding)
            for (text, decoding), numbers in alike.items()
        }
        try:
            return {
                number: answer_text(
                    self.tok_decode,
                    tokens,
                    prompts[number].decoding.until,
                    prompts[number].decoding.think_end,
                )
                for number, tokens in self._generator().answers(tuple(prompts.values()))
            }
        except BadLogitsError as error:
            raise NonFiniteLogitsError(error.number) from None

    def _generate_theirs(
        self, requests: Sequence[Any], numbers: Sequence[int], disable_tqdm: bool
    ) -> dict[int, str]:
        """The answers to ``numbers`` by transformers' ``generate``; sampled ones each from its own seed."""
        together = [n for n in numbers if not is_sampled(requests[n])]
        groups = [together] if together else []
        groups += [[n] for n in numbers if is_sampled(requests[n])]
        answers: dict[int, str] = {}
        for group in groups:
            asked = [requests[n] for n in group]
            try:
                with random_stream(asked, self.device, int(asked[0].args[1].get("seed", 0))):
                    texts = super().generate_until(asked, disable_tqdm)
            except NonFiniteLogitsError as error:
                raise NonFiniteLogitsError(group[error.request]) from None
            answers.update(zip(group, texts, strict=True))
        return answers

    def _decoding(self, options: Mapping[str, Any]) -> Decoding | None:
        """How our own loop answers a request with ``options``; None where it cannot."""
        config = getattr(self.model, "generation_config", None)
        if self._batching is not Batching.TREES or config is None:
            return None
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        return decoding_of(options, config, end, self.max_gen_toks)

    def _generator(self) -> Generator:
        stops = functools.cache(functools.partial(StopTexts, self.tokenizer))
        longest = longest_shared(self.model, self.max_length)
        return Generator(self.model, stops, self._limit, longest, self._check_time)

    def _prompt(self, number: int, text: str, decoding: Decoding) -> Tokens:
        """The tokens of a prompt, cut on the left as ``HFLM`` does."""
        encode = super().tok_batch_encode
        (tokens,) = self._tokens.tokens(("prompt", text), lambda: [encode([text])[0][0].tolist()])
        if not len(tokens):
            raise UnfitRequestError(number, _NO_PROMPT)
        return tokens[-(self.max_length - decoding.most) :]

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> Any:
        self._refuse_unfit(requests)
        if self._batching is Batching.THEIRS:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        reads, targets = self._reads(requests)
        answers: list[tuple[float, bool] | None] = [None] * len(reads)
        run = ForwardPass(self.model)
        for batch in fill_rows(plan_trees(reads, self._limit.width), self._limit):
            self._check_time()
            for member, answer in _scores(run, batch, targets):
                answers[member] = answer
        return answers

    def _refuse_unfit(self, requests: Sequence[Any]) -> None:
        context_length = self.max_length
        for position, (_, context, continuation) in enumerate(requests):
            if not len(context) or not len(continuation):
                raise UnfitRequestError(position, _NO_ANSWER if len(context) else _NO_PROMPT)
            if len(continuation) > context_length:
                raise UnfitRequestError(
                    position,
                    f"its answer has {len(continuation)} tokens, the model's context {context_length}",
                )

    def _reads(self, requests: Sequence[Any]) -> tuple[list[Read], list[npt.NDArray[np.int64]]]:
        """What the model reads for each request, cut on the left as ``HFLM`` does; the answers' tokens."""
        most = self.max_length
        longest = longest_shared(self.model, most) if self._batching is Batching.TREES else 0
        reads, targets = [], []
        for _, context, continuation in requests:
            answer = np.asarray(continuation, dtype=np.int32)
            whole = np.concatenate([np.asarray(context, dtype=np.int32), answer])
            read = whole[-(most + 1) :][:-1]
            reads.append(Read(read, len(read) - len(answer), len(read) <= longest))
            targets.append(answer.astype(np.int64))
        return reads, targets

    def _check_time(self) -> None:
        if self._deadline is not None:
            self._deadline.check()

    def _halving(self, requests: Sequence[Any], run: Callable[[], Any]) -> Any:
        limit = self._largest_limit
        sizes = {max(1, limit.rows >> n): limit.halved(n) for n in range(limit.rows.bit_length())}

        def with_rows(size: int) -> Any:
            self._limit = sizes[size]
            # HFLM hands over so many windows of rolling log-likelihoods at once.
            pooled = self._batching is not Batching.THEIRS
            rolling = pooled and requests[0].request_type == "loglikelihood_rolling"
            self.batch_size_per_gpu = sys.maxsize if rolling else min(size, self._batch_size)
            return run()

        return with_halved_batches(with_rows, limit.rows, f"a batch of {len(requests)} requests")


def _scores(run: ForwardPass, batch: Batch, targets: Sequence[npt.NDArray[np.int64]]) -> Any:
    """For each sequence of the batch its number, log-likelihood, and whether it is the greedy answer."""
    members, places = zip(*wanted_positions(batch), strict=True)
    positions, index = np.unique(np.concatenate(places), return_inverse=True)
    logits = run.logits(batch, positions.tolist())
    device = logits.device
    tokens = torch.from_numpy(np.concatenate([targets[member] for member in members])).to(device)
    values, greedy = _at(logits, torch.from_numpy(index).to(device), tokens)
    start = 0
    for member in members:
        end = start + len(targets[member])
        yield member, (float(values[start:end].sum()), bool(greedy[start:end].all()))
        start = end


def _at(logits: Tensor, index: Tensor, tokens: Tensor) -> tuple[npt.NDArray[np.float64], Any]:
    """The log-probability of each of ``tokens`` after row ``index`` of ``logits``; whether it is greedy.

    In float32 whatever the logits are in: HFLM's log-probabilities of bfloat16 have 8 bits.
    """
    values = torch.empty(len(tokens), dtype=torch.float64, device=tokens.device)
    greedy = torch.empty(len(tokens), dtype=torch.bool, device=tokens.device)
    for start in range(0, len(logits), _CHUNK):
        chunk = logits[start : start + _CHUNK]
        here = (index >= start) & (index < start + len(chunk))
        row, token = index[here] - start, tokens[here]
        values[here] = torch.log_softmax(chunk.float(), dim=-1)[row, token].double()
        greedy[here] = chunk.argmax(dim=-1)[row] == token
    return values.cpu().numpy(), greedy.cpu().numpy()
