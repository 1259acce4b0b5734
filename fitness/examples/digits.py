"""An example of Python tasks (docs/python_tasks.md): sums whose answers count by their share of right digits.

For the models of experiments/zoo, which answer "A12+34=" with a sum:

    fitness:
      tasks: [{python: examples/digits.py:RightDigits}]
"""

from __future__ import annotations

from typing import Any


class RightDigits:
    """The share of digits that are right, where exact match would only see right and wrong sums."""

    def items(self) -> list[dict[str, Any]]:
        """One sum for each item."""
        return [
            {"prompt": f"A{first}+{second}=", "answer": str(first + second)}
            for first in range(10, 100, 7)
            for second in range(11, 100, 7)
        ]

    def score(self, lm: Any, items: list[dict[str, Any]]) -> list[float]:
        """From 0 (no digit is right) to 1 for each item."""
        answers = lm.generate([item["prompt"] for item in items], max_tokens=5, stop="\n")
        return [_share_of_right_digits(a, item["answer"]) for a, item in zip(answers, items, strict=True)]


class Preference:
    """How much likelier the right sum is than the next one: two answers compared without generation."""

    def items(self) -> list[dict[str, Any]]:
        """The sums of ``RightDigits``."""
        return RightDigits().items()

    def score(self, lm: Any, items: list[dict[str, Any]]) -> list[float]:
        """The difference of the two log-likelihoods, at most 5."""
        right = lm.loglikelihood([(item["prompt"], item["answer"]) for item in items])
        wrong = lm.loglikelihood([(item["prompt"], str(int(item["answer"]) + 1)) for item in items])
        return [min(a - b, 5.0) for (a, _), (b, _) in zip(right, wrong, strict=True)]


def _share_of_right_digits(answer: str, wanted: str) -> float:
    right = sum(a == b for a, b in zip(answer, wanted, strict=False))
    return right / max(len(answer), len(wanted))
