"""The tokens of texts, kept from one candidate to the next: a tokenizer does not change with the weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from evomerge.backends.shared_prefixes import Tokens

__all__ = ["TokenCache"]

_MOST_TOKENS = 1 << 26
"""256 MiB; beyond it the cache is emptied."""


class TokenCache:
    """What one tokenizer made of texts; made anew with another tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[Hashable, tuple[Tokens, ...]] = {}
        self._size = 0

    def tokens(self, key: Hashable, encode: Callable[[], Sequence[Sequence[int]]]) -> tuple[Tokens, ...]:
        """What ``encode`` returned when it was first called for ``key``; not to be changed."""
        found = self._known.get(key)
        if found is None:
            found = tuple(np.array(tokens, dtype=np.int32) for tokens in encode())
            self._size += sum(map(len, found))
            if self._size > _MOST_TOKENS:
                self._known.clear()
                self._size = sum(map(len, found))
            self._known[key] = found
        return found
