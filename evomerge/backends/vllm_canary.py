"""A few tokens whose log-probabilities vLLM and transformers must agree on before vLLM's scores count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import Checkpoint
from evomerge.errors import UserError
from evomerge.recipe import Recipe

__all__ = ["Canary"]

_TEXT = "A bird that sings in a mine says that the air is good: 1 + 2 = 3, and 12 + 34 = 46. Listen to it."
_FEWEST, _MOST = 8, 48
_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Mean absolute difference of the log-probabilities; docs/vllm.md has what was measured."""
_QUANTIZED = 0.5


@dataclass(frozen=True)
class Canary:
    """The prompt ``tokens``, and what transformers says of each but the first."""

    tokens: list[int]
    logprobs: list[float]
    fingerprint: str
    tolerance: float
    chance: float
    """Log-probability of a token where all are equally likely."""

    @classmethod
    def of(
        cls,
        checkpoints: Mapping[str, Checkpoint],
        recipe: Recipe,
        device: str,
        dtype: torch.dtype,
        *,
        is_quantized: bool,
    ) -> Canary:
        """Makes the merge of ``recipe`` with transformers, asks it, and frees it.

        Raises:
            CandidateError, UserError: As ``TransformersModel.load``.
        """
        model = TransformersModel(checkpoints, device=device, compute_dtype=dtype)
        try:
            fingerprint = model.load(recipe)
            module: Any = model.model
            rows = module.get_input_embeddings().weight.shape[0]
            tokens = _tokens(model.tokenizer, rows)
            with torch.inference_mode():
                logits = module.eval()(torch.tensor([tokens], device=device)).logits[0, :-1].float()
            rated = torch.log_softmax(logits, dim=-1).gather(
                1, torch.tensor(tokens[1:], device=device)[:, None]
            )
            tolerance = _QUANTIZED if is_quantized else _TOLERANCE[dtype]
            return cls(tokens, rated[:, 0].tolist(), fingerprint, tolerance, -math.log(logits.shape[-1]))
        finally:
            model.close()
            if torch.device(device).type == "cuda":
                torch.cuda.empty_cache()

    def check(self, logprobs: list[float], fingerprint: str) -> None:
        """Compares what vLLM says of the same tokens.

        A merge that is worse than chance by far, or whose logits overflow, has no log-probabilities worth
        comparing; it is scored as any other.

        Raises:
            UserError: They differ.
        """
        if fingerprint != self.fingerprint:
            raise UserError(
                "workers.engine",
                "vLLM's workers merge to other weights than this process "
                f"({fingerprint}, not {self.fingerprint})",
                "Are the models the same files on all machines?",
            )
        mean = sum(self.logprobs) / len(self.logprobs)
        if not math.isfinite(mean) or mean < 2 * self.chance:
            return
        apart = sum(abs(a - b) for a, b in zip(logprobs, self.logprobs, strict=True)) / len(logprobs)
        if not apart <= self.tolerance:  # NaN as well
            raise UserError(
                "workers.engine",
                "vLLM and transformers disagree about this model: on a test prompt of "
                f"{len(self.tokens)} tokens their log-probabilities differ by {apart:.3g} on average, and "
                f"{self.tolerance:g} is allowed",
                "Its scores would not be those of the exported model. Use engine: transformers, or other "
                "workers.engine_args.",
            )


def _tokens(tokenizer: Any, rows: int) -> list[int]:
    tokens = [int(t) for t in tokenizer.encode(_TEXT) if t < rows][:_MOST]
    # A small vocabulary may lack nearly all of it.
    return tokens if len(tokens) >= _FEWEST else [(7 * i + 3) % rows for i in range(_FEWEST)]
