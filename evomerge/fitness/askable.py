"""What the fitness needs of a model: an lm-eval ``LM``, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from evomerge.fitness.deadline import Deadline

if TYPE_CHECKING:
    import torch

__all__ = ["Askable", "BatchSize", "EvalLM", "NonFiniteLogitsError", "UnfitRequestError"]


BatchSize: TypeAlias = int | Literal["auto"]
"""Sequences in one forward pass, or what suits the device."""


class EvalLM(Protocol):
    """The parts of an lm-eval ``TemplateLM`` (0.4.13) that are used, and ``max_length``, which all have.

    Beyond what lm-eval says, answers are a function of the weights and the requests alone (nothing is cached
    from one candidate to the next), and where logits are not finite no answer is made of them:
    log-likelihoods are then not finite either, and generation raises ``NonFiniteLogitsError``. Where memory
    runs out it tries again with fewer sequences at a time; what does not fit one by one is a
    ``CandidateError``.

    Chat templates are applied to prompts before they are asked. Generation options (the second argument of a
    request) are lm-eval's and transformers' (``until``, ``max_gen_toks``, ``temperature`` ...), and:

    - ``seed``: of sampled answers;
    - ``think_end_token``: a text, or the id of a token. The answer is what follows its last occurrence,
      without blanks in front; the whole answer where it does not occur. Stop texts are looked for after that
      (``lm_eval.models.utils.postprocess_generated_text``).
    """

    @property
    def pools(self) -> bool:
        """Whether requests of several tasks are asked together; else those of one task at a time.

        One that pools answers each sampled request from the ``seed`` in its generation options.
        """
        ...

    @property
    def tokenizer(self) -> Any:
        """Of the merged model, as transformers has it: its chat template, the recipe's, makes prompts."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of the context, prompt and answer together."""
        ...

    @property
    def device(self) -> torch.device:
        """Where answers are sampled."""
        ...

    def tok_encode(self, string: str) -> list[int]:
        """The tokens of a text."""
        ...

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each request log p(continuation | context), and whether that is the greedy answer.

        Raises:
            CandidateError: Memory or time do not suffice; so do the other kinds of requests.
        """
        ...

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """For each request log p(text)."""
        ...

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each request."""
        ...


class Askable(Protocol):
    """A model with its tokenizer, whose weights may change between two scorings."""

    def lm(self, batch_size: BatchSize, deadline: Deadline | None = None) -> EvalLM:
        """lm-eval's view of it, with so many sequences at a time; cheap: make one per use, keep none.

        ``deadline`` is looked at before each step of the model, or where the model cannot, before each
        request; what is past it raises its ``CandidateError``.

        Raises:
            FitnessError: The tokenizer does not suffice.
        """
        ...


class NonFiniteLogitsError(Exception):
    """While generating, the logits after a prompt were not finite; holds the position of its request."""

    def __init__(self, request: int) -> None:
        super().__init__(request)
        self.request = request


class UnfitRequestError(Exception):
    """The model cannot answer the request at ``request``; ``reason`` is said of its item."""

    def __init__(self, request: int, reason: str) -> None:
        super().__init__(request, reason)
        self.request = request
        self.reason = reason
