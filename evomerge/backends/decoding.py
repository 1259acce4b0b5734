"""How an answer is generated: the next token, and where the answer ends; options as HFLM understands them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from evomerge.fitness.generation_spec import OWN_KEYS

__all__ = ["Decoding", "StopTexts", "decoding_of"]

_LENGTHS = {"max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}
_OPTIONS = _LENGTHS | {"until", "do_sample", "temperature", "top_k", "top_p", "min_p", *OWN_KEYS}

_HARMLESS = {"transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "_from_model_config"} | {
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "max_length",
    "max_new_tokens",
    "use_cache",
    "decoder_start_token_id",
    "output_attentions",
    "output_hidden_states",
}
"""Parts of a model's generation config that change no greedy answer, or that are read here."""

_TOP_K = 50
"""transformers' default where neither a request nor the model says otherwise (5.23)."""


@dataclass(frozen=True)
class Decoding:
    """The options of one answer."""

    until: tuple[str, ...]
    most: int
    """Tokens of the answer."""
    ends: frozenset[int]
    """Tokens that end it."""
    seed: int | None
    """None: the likeliest token is taken."""
    think_end: str | int | None = None
    """What ends the part of an answer that does not count."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        """A token drawn from ``logits`` of the vocabulary; warped in float32, in transformers' order."""
        warpers: list[LogitsProcessor] = []
        if self.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            warpers.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            warpers.append(MinPLogitsWarper(self.min_p))
        scores = logits.float()[None]
        none: Any = None  # no warper looks at the tokens before
        for warper in warpers:
            scores = warper(none, scores)
        return int(torch.multinomial(scores.softmax(dim=-1)[0], 1, generator=generator))


def decoding_of(options: Mapping[str, Any], model_config: Any, end_text: str, most: int) -> Decoding | None:
    """What ``options`` of a request mean to a model with the generation config ``model_config``.

    ``most`` is how many tokens an answer has where nothing is said. None: our own loop cannot do this
    (beams, penalties, a temperature of 0 in sampling), transformers' ``generate`` has to.
    """
    if not set(options) <= _OPTIONS or not set(model_config.to_diff_dict()) <= _HARMLESS:
        return None
    known = normalize_gen_kwargs(dict(options), most)
    until = tuple(handle_stop_sequences(known["until"], eos=end_text))
    ends = model_config.eos_token_id
    end_tokens = frozenset([ends] if isinstance(ends, int) else ends or ())
    if not known.get("do_sample"):
        return Decoding(until, known["max_gen_toks"], end_tokens, None, known.get("think_end_token"))
    temperature = float(known.get("temperature", 0.0))
    if temperature <= 0.0:
        return None

    def setting(name: str, default: Any) -> Any:
        given = known.get(name, getattr(model_config, name, None))
        return default if given is None else given

    return Decoding(
        until,
        known["max_gen_toks"],
        end_tokens,
        int(known.get("seed", 0)),
        known.get("think_end_token"),
        temperature,
        int(setting("top_k", _TOP_K)),
        float(setting("top_p", 1.0)),
        setting("min_p", None),
    )


class StopTexts:
    """Tells whether an answer has reached a text that ends it, by the last tokens, as lm-eval's criterion."""

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        # Two more than the text itself needs: its beginning may be the end of a longer token.
        lengths = [len(tokenizer.encode(text, add_special_tokens=False)) + 2 for text in until]
        self._texts = tuple(zip(until, lengths, strict=True))
        self._longest = max(lengths, default=0)

    def reached(self, answer: Sequence[int]) -> bool:
        """Whether ``answer``, which had not reached one before its last token, now has."""
        tail = self._decode(answer[-self._longest :])
        return any(text in tail and text in self._decode(answer[-length:]) for text, length in self._texts)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens))
