"""The text of a generated answer: what follows the thought, up to a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lm_eval.models.utils import postprocess_generated_text

__all__ = ["answer_text"]


def answer_text(
    decode: Callable[[list[int]], str],
    tokens: Sequence[int],
    until: Sequence[str],
    think_end: str | int | None = None,
) -> str:
    """The text of ``tokens``, as ``HFLM.generate_until`` of lm-eval 0.4.13 makes it.

    ``think_end`` is a text or a token: all up to its last occurrence is cut, with the blanks behind it; where
    it does not occur, nothing is.
    """
    kept = list(tokens)
    if isinstance(think_end, int):
        if think_end in kept:
            kept = kept[len(kept) - kept[::-1].index(think_end) :]
        return str(postprocess_generated_text(decode(kept).lstrip(), list(until), None))
    return str(postprocess_generated_text(decode(kept), list(until), think_end))
