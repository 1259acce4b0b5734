"""A vLLM engine: started for one configuration, filled by merges, asked for tokens and log-probabilities."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch

from evomerge.errors import CandidateError, FailureKind, FitnessError, UserError
from evomerge.fitness.deadline import Deadline
from evomerge.recipe import Recipe

__all__ = [
    "RATED",
    "Answer",
    "EngineFailedError",
    "Request",
    "VllmEngine",
    "argument_names",
    "set_environment",
    "vllm_device",
]

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # batches do not depend on when requests arrive
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process whose threads compute may wait for ever
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several workers share a machine
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_WATCH_S = 0.5
_Result = TypeVar("_Result")
_STUMBLED_OVER = ("llvmlite.binding.ffi",)


RATED = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 1, "detokenize": False}
"""``Request.sampling`` for the log-probabilities of a prompt."""


class EngineFailedError(Exception):
    """The engine is gone or in an unknown state; a new one is needed."""


@dataclass(frozen=True)
class Request:
    """A prompt and what is asked of it: the log-probabilities of its tokens, or an answer.

    ``sampling`` are fields of vLLM's ``SamplingParams``.
    """

    tokens: list[int]
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """``logprobs`` of the prompt's tokens but the first (or of the answer's, where one was asked for), and
    whether each is the most likely one (of several, the one with the lowest number); the answer's tokens.
    """

    tokens: list[int]
    logprobs: list[float]
    greedy: list[bool]


class VllmEngine:
    """One engine. After an ``EngineFailedError`` it can only be closed.

    A process has one at a time: what vLLM cleans up at the end of one, it takes from all.

    ``folder`` holds ``config.json`` and the tokenizer; ``arguments`` are those of vLLM's ``EngineArgs``,
    ``sources`` those of ``vllm_worker.Sources``.
    """

    def __init__(self, folder: Path, arguments: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
        set_environment()
        with _quiet():
            from vllm import LLM
            from vllm.config import WeightTransferConfig

            from evomerge.backends.vllm_worker import ENGINE, EXTENSION

            with _unharmed():
                self._llm = LLM(
                    model=str(folder),
                    load_format="dummy",
                    generation_config="vllm",
                    weight_transfer_config=WeightTransferConfig(backend=ENGINE),
                    worker_extension_cls=EXTENSION,
                    **arguments,
                )
                self._llm.init_weight_transfer_engine({"init_info": dict(sources)})
        self._asked = 0

    def load(self, recipe: Recipe) -> str:
        """Makes its weights the merge of ``recipe``; the fingerprint.

        Raises:
            CandidateError: The weights hold NaN or infinity, or memory ran out.
            UserError: The models are wrong.
            EngineFailedError: The engine died, or could not take the weights.
        """
        with _failing_as("while merging"):
            return self._watched(partial(self._load, recipe))

    def start_update(self) -> None:
        """Tells vLLM that its weights are about to change."""
        self._llm.start_weight_update()

    def ask(self, requests: Sequence[Request], deadline: Deadline | None = None) -> list[Answer]:
        """The answers, in the order of the requests. ``deadline`` is looked at before each forward pass.

        Raises:
            CandidateError: The time is over, or memory ran out.
            FitnessError: vLLM refuses a setting for generation.
            EngineFailedError: The engine died.
        """
        wanted = [_parameters(request) for request in requests]
        with _failing_as("while scoring"):
            return self._watched(partial(self._ask, requests, wanted, deadline))

    def _load(self, recipe: Recipe) -> str:
        with _quiet():
            self.start_update()
            self._llm.update_weights({"update_info": {"recipe": recipe.document()}})
            fingerprint = _common_fingerprint(self._llm.collective_rpc("evomerge_merged"))
            self._llm.finish_weight_update(weight_version=fingerprint)
            self._llm.reset_prefix_cache()
        return fingerprint

    def _ask(
        self, requests: Sequence[Request], wanted: Sequence[Any], deadline: Deadline | None
    ) -> list[Answer]:
        from vllm import TokensPrompt

        engine = self._llm.llm_engine
        engine.reset_prefix_cache()  # answers must not depend on what was asked before
        names = [f"{self._asked + i}" for i in range(len(requests))]
        self._asked += len(requests)
        for name, request, parameters in zip(names, requests, wanted, strict=True):
            engine.add_request(name, TokensPrompt(prompt_token_ids=request.tokens), parameters)
        done: dict[str, Any] = {}
        try:
            while engine.has_unfinished_requests():
                if deadline is not None:
                    deadline.check()
                done |= {o.request_id: o for o in engine.step() if o.finished}
        except CandidateError:
            engine.abort_request([name for name in names if name not in done])
            raise
        return [_answer(done[name]) for name in names]

    def _watched(self, do: Callable[[], _Result]) -> _Result:
        """``do``, unless the engine's process ends meanwhile: vLLM waits for its answer for ever.

        Raises:
            EngineFailedError: It ended.
        """
        resources = getattr(self._llm.llm_engine.engine_core, "resources", None)
        if resources is None:  # the engine is in this process
            return do()
        result: Future[_Result] = Future()

        def run() -> None:
            try:
                result.set_result(do())
            except BaseException as exception:  # noqa: BLE001 (raised where it is waited for)
                result.set_exception(exception)

        Thread(target=run, name="evomerge-vllm", daemon=True).start()
        while True:
            is_dead = bool(resources.engine_dead)
            done, _ = wait([result], timeout=_WATCH_S)
            if done:
                return result.result()
            if is_dead:
                raise EngineFailedError("the process of vLLM's engine ended")

    @property
    def version(self) -> str:
        """What vLLM says which weights it has: their fingerprint."""
        return str(self._llm.get_weight_version())

    def close(self) -> None:
        """Ends the engine and its processes, and frees their memory."""
        llm = self.__dict__.pop("_llm", None)
        if llm is None:
            return
        with _quiet(), contextlib.suppress(Exception):  # it may be dead
            llm.llm_engine.engine_core.shutdown()


def set_environment() -> None:
    """Sets what vLLM reads from the environment, where the user has not; before its first import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def vllm_device() -> str:
    """Where the installed vLLM runs models: ``cuda``, ``cpu``."""
    with _quiet():
        from vllm.platforms import current_platform

        return str(current_platform.device_type)


def argument_names() -> tuple[str, ...]:
    """What the installed vLLM calls the arguments of an engine."""
    with _quiet():
        from vllm.engine.arg_utils import EngineArgs

        return tuple(f.name for f in fields(EngineArgs))


def _parameters(request: Request) -> Any:
    from vllm import SamplingParams

    try:
        return SamplingParams(**request.sampling)
    except Exception as exception:  # noqa: BLE001 (of what class depends on the version)
        raise FitnessError("generation_kwargs", f"vLLM refuses it: {exception}") from None


def _answer(output: Any) -> Answer:
    completion = output.outputs[0]
    tokens = list(completion.token_ids)
    if output.prompt_logprobs is not None:
        rated, shown = list(output.prompt_token_ids)[1:], output.prompt_logprobs[1:]
    else:
        rated, shown = tokens, completion.logprobs or []
    return Answer(
        tokens,
        [entry[token].logprob for token, entry in zip(rated, shown, strict=True)],
        [_is_first(token, entry) for token, entry in zip(rated, shown, strict=True)],
    )


def _is_first(token: int, entry: Mapping[int, Any]) -> bool:
    """Whether ``token`` is the most likely one; of several, transformers takes the lowest number."""
    own = entry[token].logprob
    return all(other.logprob < own or (other.logprob == own and token <= t) for t, other in entry.items())


def _common_fingerprint(merged: Sequence[Mapping[str, str]]) -> str:
    for of_worker in merged:
        if "failure" in of_worker:
            raise CandidateError(FailureKind(of_worker["failure"]), of_worker["reason"])
        if "error" in of_worker:
            raise UserError(of_worker["where"], of_worker["error"], of_worker["hint"])
    fingerprints = {of_worker["fingerprint"] for of_worker in merged}
    if len(fingerprints) != 1:
        raise EngineFailedError(f"its workers made different weights: {', '.join(sorted(fingerprints))}")
    return fingerprints.pop()


@contextlib.contextmanager
def _failing_as(when: str) -> Iterator[None]:
    """Whatever vLLM raises, as what it means for us."""
    try:
        yield
    except (CandidateError, UserError, EngineFailedError):
        raise
    except torch.OutOfMemoryError as exception:
        raise CandidateError(FailureKind.OUT_OF_MEMORY, f"{when}: {exception}") from None
    except Exception as exception:
        raise EngineFailedError(f"{when}: {type(exception).__name__}: {exception}") from exception


@contextlib.contextmanager
def _unharmed() -> Iterator[None]:
    """What a start of vLLM 0.32 on a CPU does to its whole process, undone.

    It replaces a function of torch by one that does nothing, and stumbles over an object of llvmlite's when
    it looks through all modules for kernels of its own.
    """
    set_num_threads = torch.set_num_threads
    hidden = {name: sys.modules.pop(name) for name in _STUMBLED_OVER if name in sys.modules}
    gc.freeze()  # vLLM collects garbage some five times, and undoes this when it ends
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        sys.modules.update(hidden)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that vLLM and what it imports give to those who develop them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("vllm").setLevel(logging.ERROR)
        yield
