"""Answers generated over our own cache: prompts read as trees, each answer ended on its own.

An answer that ends leaves the batch at once. When half of a batch has left, prompts that wait take the place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.backends.batches import PassLimit, fill_rows
from evomerge.backends.decoding import Decoding, StopTexts
from evomerge.backends.decoding_cache import DecodingCache, Source
from evomerge.backends.forward_pass import ForwardPass, wanted_positions
from evomerge.backends.shared_prefixes import Read, Tokens, plan_trees

__all__ = ["BadLogitsError", "Generator", "Prompt"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A request to be answered, by number."""

    number: int
    tokens: Tokens
    decoding: Decoding


class BadLogitsError(Exception):
    """The logits after the prompt ``number``, or in its answer, are not finite."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(eq=False)
class _Answer:
    """An answer in the making; ``length`` counts the tokens of the prompt and those that were read."""

    prompt: Prompt
    random: torch.Generator | None
    length: int
    tokens: list[int] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.prompt.decoding.most - len(self.tokens)


class Generator:
    """Generates with ``model``; ``before`` is called before each forward pass, and may raise."""

    def __init__(
        self,
        model: Any,
        stops: Callable[[tuple[str, ...]], StopTexts],
        limit: PassLimit,
        longest_shared: int,
        before: Callable[[], None],
    ) -> None:
        self._model = model
        self._stops = stops
        self._limit = limit
        self._longest_shared = longest_shared
        self._before = before
        self._pass = ForwardPass(model)

    def answers(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[int]]]:
        """The number of each prompt and the tokens of its answer, the last one included, as they end.

        Raises:
            BadLogitsError: Logits are not finite.
        """
        waiting = deque(sorted(prompts, key=lambda p: (-len(p.tokens), p.tokens.tolist(), p.number)))
        running: list[_Answer] = []
        cache: DecodingCache | None = None
        while waiting or running:
            room = self._room(running, waiting)
            if cache is None or (waiting and 2 * len(running) <= room):
                new = [waiting.popleft() for _ in range(min(len(waiting), room - len(running)))]
                begun = list(self._begin(new))
                kept = [(a, _rest(cache, row, a)) for row, a in enumerate(running) if cache is not None]
                kept += [(answer, source) for answer, source in begun if not self._is_over(answer)]
                running = [answer for answer, _ in kept]
                cache = DecodingCache([s for _, s in kept], max(a.left for a in running)) if kept else None
                yield from ((a.prompt.number, a.tokens) for a, _ in begun if self._is_over(a))
                continue
            self._step(running, cache)
            for row in reversed(range(len(running))):
                if self._is_over(running[row]):
                    yield running[row].prompt.number, running[row].tokens
                    _drop(running, cache, row)
            cache = cache if running else None

    def _room(self, running: Sequence[_Answer], waiting: Sequence[Prompt]) -> int:
        """How many answers are made at a time, one at least."""
        longest = [answer.length + answer.left for answer in running]
        longest += [len(prompt.tokens) + prompt.decoding.most for prompt in waiting]
        return max(1, min(self._limit.rows, self._limit.kept // max(longest, default=1)))

    def _begin(self, prompts: Sequence[Prompt]) -> Iterator[tuple[_Answer, Source]]:
        """Reads ``prompts``; the first token of each answer, and where its keys and values are."""
        reads = [
            Read(p.tokens, len(p.tokens) - 1, len(p.tokens) <= self._longest_shared, kept=True)
            for p in prompts
        ]
        begun: dict[int, tuple[_Answer, Source]] = {}
        for batch in fill_rows(plan_trees(reads, self._limit.width), self._limit):
            self._before()
            members = list(wanted_positions(batch))
            logits, cache = self._pass.logits_and_cache(batch, [int(places[0]) for _, places in members])
            begin = 0 if batch.prefix is None else batch.prefix.end
            where = {}
            for row, trees in enumerate(batch.rows):
                offset = begin
                for tree in trees:
                    for member, path in zip(tree.members, tree.paths, strict=True):
                        columns = torch.from_numpy(np.concatenate([np.arange(begin), path + offset]))
                        where[member] = row, columns.to(logits.device)
                    offset += len(tree)
            answers = [self._new(prompts[member]) for member, _ in members]
            self._choose(answers, logits)
            for (member, _), answer in zip(members, answers, strict=True):
                row, columns = where[member]
                begun[member] = answer, Source(cache, row, columns, len(columns))
        yield from (begun[member] for member in range(len(prompts)))

    def _new(self, prompt: Prompt) -> _Answer:
        seed = prompt.decoding.seed
        random = None if seed is None else torch.Generator(self._model.device).manual_seed(seed)
        return _Answer(prompt, random, len(prompt.tokens))

    def _step(self, running: Sequence[_Answer], cache: DecodingCache) -> None:
        """One more token for each answer."""
        self._before()
        device = self._model.device
        lengths = torch.tensor([answer.length for answer in running], device=device)
        columns = torch.arange(cache.length + 1, device=device)
        logits = self._model(
            torch.tensor([[answer.tokens[-1]] for answer in running], device=device),
            attention_mask=(columns >= cache.length - lengths[:, None]).long(),
            position_ids=lengths[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits
        cache.length += 1
        for answer in running:
            answer.length += 1
        self._choose(running, logits[:, -1])

    def _choose(self, answers: Sequence[_Answer], logits: Tensor) -> None:
        """Adds the next token to each of ``answers``, one row of ``logits`` for each."""
        bad = ~torch.isfinite(logits.amax(dim=-1))
        likeliest = torch.stack([logits.argmax(dim=-1), bad.long()]).tolist()
        for row, answer in enumerate(answers):
            if likeliest[1][row]:
                raise BadLogitsError(answer.prompt.number)
            token = likeliest[0][row]
            if answer.random is not None:
                token = answer.prompt.decoding.choose(logits[row], answer.random)
            answer.tokens.append(token)

    def _is_over(self, answer: _Answer) -> bool:
        decoding = answer.prompt.decoding
        ended = answer.left <= 0 or answer.tokens[-1] in decoding.ends
        return ended or self._stops(decoding.until).reached(answer.tokens)


def _rest(cache: DecodingCache, row: int, answer: _Answer) -> Source:
    """Where the keys and values of a running answer are."""
    return Source(cache, row, slice(cache.length - answer.length, cache.length), answer.length)


def _drop(running: list[_Answer], cache: DecodingCache, row: int) -> None:
    """Removes a row; the last one takes its place."""
    last = running.pop()
    if row < len(running):
        cache.move(len(running), row)
        running[row] = last
