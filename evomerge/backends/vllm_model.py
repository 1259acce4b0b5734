"""A model that vLLM runs: merged inside vLLM's workers, asked through lm-eval's requests."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from evomerge.backends.config_digest import config_digest
from evomerge.backends.resident import ModelSettings
from evomerge.backends.transformers_lm import context_length, with_padding
from evomerge.backends.transformers_model import model_dtype
from evomerge.backends.vllm_canary import Canary
from evomerge.backends.vllm_engine import RATED, Answer, EngineFailedError, Request, VllmEngine
from evomerge.backends.vllm_lm import VllmLM
from evomerge.backends.vllm_settings import checked_arguments, device_for, room
from evomerge.checkpoints.checkpoint import Checkpoint, dtype_name
from evomerge.engine.inputs import Inputs
from evomerge.engine.model_names import parse_config
from evomerge.engine.plan import MergePlan
from evomerge.engine.sources import open_sources
from evomerge.errors import CandidateError, FailureKind, UserError
from evomerge.fitness.askable import BatchSize
from evomerge.fitness.deadline import Deadline
from evomerge.recipe import Recipe
from evomerge.tokenizers.vocabulary import load_tokenizer, tokenizer_files

__all__ = ["VllmModel"]

_Result = TypeVar("_Result")


class VllmModel:
    """A ``ResidentModel``: an engine of vLLM's, whose workers hold the sources and merge each recipe.

    The engine is started at the first recipe, and anew where a recipe has another configuration (depth),
    where a merge did not succeed, and where it died. After each start what it says of one prompt is compared
    with what transformers says (``Canary``).
    """

    def __init__(self, checkpoints: Mapping[str, Checkpoint], settings: ModelSettings) -> None:
        self._settings = settings
        self._arguments = checked_arguments(settings)
        self._device = device_for(settings.device)
        self._inputs = Inputs(checkpoints)
        self._running: _Running | None = None
        self._recipe: Recipe | None = None
        self._plan: MergePlan | None = None

    @classmethod
    def of(cls, settings: ModelSettings) -> VllmModel:
        """The model of a worker, its sources opened; the engine starts later.

        Raises:
            UserError: vLLM is not installed, or an argument, a model or the device is wrong.
        """
        checked_arguments(settings)  # before models are downloaded
        return cls(open_sources(dict(settings.models), (Path(), settings.folder)), settings)

    def load(self, recipe: Recipe) -> str:
        """As ``ResidentModel.load``.

        Raises:
            CandidateError: The weights hold NaN or infinity, memory ran out, or vLLM died twice of it.
            RecipeError, CheckpointError: The recipe does not fit the models.
            UserError: vLLM cannot run such a model, or answers otherwise than transformers.
        """
        self._recipe = self._plan = None
        plan = self._inputs.plan(recipe)
        try:
            fingerprint = self._loaded(recipe, plan)
        except EngineFailedError:
            self.close()
            fingerprint = self._once_more(partial(self._loaded, recipe, plan))
        except BaseException:
            self.close()  # its weights are in an unknown state
            raise
        self._recipe, self._plan = recipe, plan
        return fingerprint

    def lm(self, batch_size: BatchSize, deadline: Deadline | None = None) -> VllmLM:  # noqa: ARG002
        """As ``Askable.lm``; vLLM makes batches of its own (``max_num_seqs`` in the engine arguments)."""
        if self._running is None or self._recipe is None:
            raise RuntimeError("nothing has been loaded yet")
        running = self._running
        return VllmLM(running.shell, running.tokenizer, partial(self._ask, deadline), running.max_length)

    @property
    def config_digest(self) -> str | None:
        """As ``ResidentModel.config_digest``."""
        return None if self._plan is None else config_digest(self._plan)

    @property
    def version(self) -> str:
        """What vLLM says which weights it has: the fingerprint of the last recipe loaded."""
        if self._running is None:
            raise RuntimeError("nothing has been loaded yet")
        return self._running.engine.version

    def close(self) -> None:
        """Ends the engine; the next ``load`` starts another."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _ask(self, deadline: Deadline | None, requests: Sequence[Request]) -> list[Answer]:
        if self._running is None or self._recipe is None:
            raise RuntimeError("nothing has been loaded yet")
        try:
            return self._running.engine.ask(requests, deadline)
        except EngineFailedError:
            recipe = self._recipe
            self.close()
            return self._once_more(partial(self._asked_again, recipe, deadline, requests))

    def _asked_again(
        self, recipe: Recipe, deadline: Deadline | None, requests: Sequence[Request]
    ) -> list[Answer]:
        self._loaded(recipe, self._inputs.plan(recipe))
        assert self._running is not None  # noqa: S101 (for the type checker)
        return self._running.engine.ask(requests, deadline)

    def _once_more(self, do: Callable[[], _Result]) -> _Result:
        """After the death of an engine: with a new one, whose death is the candidate's."""
        try:
            return do()
        except EngineFailedError as exception:
            self.close()
            raise CandidateError(
                FailureKind.WORKER_DIED, f"vLLM's engine failed twice, {exception}"
            ) from None
        except BaseException:
            self.close()
            raise

    @torch.inference_mode(mode=False)
    def _loaded(self, recipe: Recipe, plan: MergePlan) -> str:
        # An engine may have to be replaced while it is asked, which a search does in inference mode. The
        # threads that merge are not in it, and could not write to tensors that were made in it.
        key = _key(plan)
        if self._running is not None and self._running.key == key:
            return self._running.engine.load(recipe)
        self.close()
        canary = Canary.of(
            self._inputs.checkpoints,
            recipe,
            self._device,
            self._dtype(plan),
            is_quantized=self._settings.quantization is not None,
        )
        self._running = self._start(plan, key)
        fingerprint = self._running.engine.load(recipe)
        [answer] = self._running.engine.ask([Request(canary.tokens, RATED)])
        canary.check(answer.logprobs, fingerprint)
        return fingerprint

    def _start(self, plan: MergePlan, key: str) -> _Running:
        settings, dtype = self._settings, dtype_name(self._dtype(plan))
        sources = {
            "models": [list(pair) for pair in settings.models],
            "folder": str(settings.folder),
            "threads": settings.threads,
        }
        try:
            return _Running(plan, key, {**self._arguments, "dtype": dtype}, sources)
        except UserError:
            raise
        except Exception as exception:
            raise UserError(
                "workers.engine",
                f"vLLM cannot run this model: {_reason(exception)}",
                "Use engine: transformers, or other workers.engine_args.",
            ) from exception

    def _dtype(self, plan: MergePlan) -> torch.dtype:
        if self._settings.dtype is not None:
            return getattr(torch, self._settings.dtype)  # type: ignore[no-any-return]
        return model_dtype(plan)


class _Running:
    """An engine for merges of one configuration, and what lm-eval needs beside it."""

    def __init__(
        self, plan: MergePlan, key: str, arguments: Mapping[str, Any], sources: Mapping[str, Any]
    ) -> None:
        self.key = key
        config, model_class = parse_config(plan.config)
        self.tokenizer = with_padding(load_tokenizer(plan.tokenizer.path))
        with torch.device("meta"):
            self.shell = model_class(config).eval()
        self._tokenizer_folder = plan.tokenizer  # it lives as long as this object
        context = room(plan.config, context_length(config, self.tokenizer), arguments.get("max_model_len"))
        self.max_length = context.scored
        with tempfile.TemporaryDirectory(prefix="evomerge-vllm-") as name:
            folder = Path(name)
            (folder / "config.json").write_text(json.dumps(context.config), encoding="utf-8")
            for file in tokenizer_files(plan.tokenizer.path):
                shutil.copy(file, folder)
            self.engine = VllmEngine(folder, {**arguments, "max_model_len": context.engine}, sources)

    def close(self) -> None:
        self.engine.close()


def _key(plan: MergePlan) -> str:
    shapes = sorted((t.name, list(t.shape)) for t in plan.tensors)
    return json.dumps([config_digest(plan), shapes, str(model_dtype(plan))])


def _reason(exception: BaseException) -> str:
    """The text of the innermost of the exceptions, its first lines."""
    while exception.__cause__ is not None:
        exception = exception.__cause__
    lines = [line.strip() for line in str(exception).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400] or type(exception).__name__
