"""Requests of tasks, answered by a model: all together where it pools them, else task by task."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lm_eval.api.instance import Instance

from evomerge.errors import CandidateError, FailureKind, FitnessError
from evomerge.fitness.askable import EvalLM, NonFiniteLogitsError, UnfitRequestError
from evomerge.fitness.lm_eval_requests import is_sampled, random_stream

__all__ = ["SEED", "Request", "answer"]

SEED = 1234
"""lm-eval's default for few-shot examples and for sampling."""


@dataclass(frozen=True)
class Request:
    """One of the requests that a task makes of an item; its answers go into ``instance.resps``."""

    task: str
    item: str
    instance: Instance


def answer(model: EvalLM, requests: Sequence[Request]) -> None:
    """Runs ``model`` on all ``requests`` by kind, repeats side by side, as ``lm_eval.evaluate`` does.

    Raises:
        CandidateError: Logits are not finite (argmax over NaN picks the first choice, so a broken model would
            score like a guess), or memory or time do not suffice.
        FitnessError: the model cannot answer a request: the item is named.
    """
    tasks = dict.fromkeys(request.task for request in requests)
    groups = [requests] if model.pools else [[r for r in requests if r.task == task] for task in tasks]
    for group in groups:
        for kind in dict.fromkeys(request.instance.request_type for request in group):
            _ask(model, kind, [r for r in group if r.instance.request_type == kind])


def _ask(model: EvalLM, kind: str, requests: Sequence[Request]) -> None:
    calls = [(r, n) for r in requests for n in range(r.instance.repeats or 1)]
    asked = [_with_seed(r, n) if model.pools else r.instance for r, n in calls]
    try:
        with random_stream(asked, model.device, _stream_seed(asked)):
            responses = getattr(model, kind)(asked, disable_tqdm=True)
    except NonFiniteLogitsError as error:
        at_fault = calls[error.request][0]
        told = f"the logits after the prompt of item {at_fault.item} are not finite"
        raise _not_finite(at_fault, told) from None
    except UnfitRequestError as error:
        unfit = calls[error.request][0]
        raise FitnessError(
            f"fitness.tasks: {unfit.task}",
            f"the model cannot answer item {unfit.item}: {error.reason}",
            "Check the task's data and templates, or remove the item.",
        ) from None
    for (request, _), response in zip(calls, responses, strict=True):
        value = response[0] if isinstance(response, tuple) else response
        if isinstance(value, float) and not math.isfinite(value):
            raise _not_finite(request, f"the log-likelihood of item {request.item} is {value}")
        request.instance.resps.append(response)


def _stream_seed(asked: Sequence[Instance]) -> int:
    """The seed of the first that is sampled; where a model does not pool, all have the same."""
    sampled = next((instance for instance in asked if is_sampled(instance)), None)
    return SEED if sampled is None else int(sampled.args[1].get("seed", SEED))


def _with_seed(request: Request, repeat: int) -> Instance:
    """A sampled request with a seed of its own, so that its answer does not depend on the others."""
    instance = request.instance
    if not is_sampled(instance):
        return instance
    prompt, options, *rest = instance.args
    if "seed" in options and not repeat:
        return instance
    text = f"{options.get('seed', SEED)}:{request.task}:{request.item}:{repeat}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
    return replace(instance, arguments=(prompt, {**options, "seed": seed}, *rest))


def _not_finite(request: Request, what: str) -> CandidateError:
    return CandidateError(FailureKind.NON_FINITE_SCORES, f"task {request.task!r}: {what}")
