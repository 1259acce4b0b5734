"""What would stop a search before its first candidate, beyond models, recipes and tasks; creates nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError, ExperimentError, FitnessError, OutputError, StudyError

if TYPE_CHECKING:
    from evomerge.engine.plan import MergePlan
    from evomerge.fitness import Evaluator
    from evomerge.search.experiment import Experiment, WorkersSpec

__all__ = ["prompt_warnings", "refuse_places", "refuse_workers"]

_CONTEXT_FIELDS = ("n_positions", "max_position_embeddings", "n_ctx")
"""Where lm-eval looks for the length of a model's context, in this order."""
_UNLIMITED = 10**18
"""What transformers writes for a tokenizer that knows no limit is larger."""


def refuse_workers(workers: WorkersSpec) -> None:
    """Nothing, where the workers can be had.

    Raises:
        ExperimentError: They cannot: Ray is not installed, or this machine has too few GPUs for one.
    """
    if workers.backend != "ray":
        return
    if find_spec("ray") is None:
        raise ExperimentError("workers.backend", "Ray is not installed", "Install it, or use inline.")
    wanted = workers.gpus_per_worker
    if wanted > 1 and wanted != int(wanted):
        raise ExperimentError(
            "workers.gpus_per_worker", f"{wanted:g}: above 1, Ray gives whole GPUs only", "Round it."
        )
    if wanted and workers.address is None:
        import torch

        have = torch.cuda.device_count()
        if wanted > have:
            raise ExperimentError(
                "workers.gpus_per_worker",
                f"each worker needs {wanted:g} GPUs, and this machine has {have}",
                "Set it to 0, or workers.address to a cluster that has them.",
            )


def refuse_places(experiment: Experiment) -> None:
    """Nothing, where the run's folder and a storage that is a file can be written.

    Raises:
        OutputError, StudyError: They cannot.
    """
    from evomerge.search.study import file_of

    if reason := _unwritable(experiment.folder):
        raise OutputError(str(experiment.folder), f"the run's folder cannot be written ({reason})")
    file = file_of(experiment.storage)
    if file is None:
        return
    if file.is_dir():
        raise StudyError(str(file), "the storage is a folder", "Name a file in it.")
    if reason := _unwritable(file.absolute().parent):
        raise StudyError(str(file), f"the storage cannot be written ({reason})")


def _unwritable(folder: Path) -> str:
    """Why ``folder`` can neither be made nor be written to; empty where it can."""
    for place in (folder, *folder.parents):
        try:
            if not place.exists():
                continue
        except OSError as exception:
            return f"{place}: {exception.strerror}"
        if not place.is_dir():
            return f"{place} is a file"
        return "" if os.access(place, os.W_OK | os.X_OK) else f"{place}: permission denied"
    return ""


def prompt_warnings(evaluator: Evaluator, plans: Sequence[MergePlan]) -> tuple[str, ...]:
    """Tokenizes a prompt of each task with each tokenizer of the merges; a sentence on those too long.

    ``plans`` are those of the first candidate and of the baselines.

    Raises:
        CheckpointError: The tokenizer is missing or cannot be read.
        FitnessError: It cannot pad or stop, makes no tokens of a prompt, or answers do not fit.
    """
    by_place = {(plan.tokenizer.path, _context_of_model(plan.config)): plan for plan in reversed(plans)}
    found = [w for plan in reversed(by_place.values()) for w in _warnings_of(evaluator, plan)]
    return tuple(dict.fromkeys(found))


def _warnings_of(evaluator: Evaluator, plan: MergePlan) -> tuple[str, ...]:
    from evomerge.fitness.lm_eval_model import with_padding
    from evomerge.tokenizers.vocabulary import load_tokenizer

    try:
        tokenizer = with_padding(load_tokenizer(_with_files(plan)))
    except FitnessError as exception:
        raise exception.within(_named(plan)) from None

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    context = _context(plan.config, tokenizer)
    for task, (text, room) in evaluator.first_prompts().items():
        if text and not count(text):
            raise FitnessError(
                f"fitness.tasks: {task}",
                f"the tokenizer ({_named(plan)}) makes no tokens of its prompts",
                "Its vocabulary is empty or damaged: copy the tokenizer files of the base model.",
            )
        if room >= context:
            raise FitnessError(
                f"fitness.tasks: {task}",
                f"answers of {room} tokens do not fit into the model's context of {context}",
                "Set fitness.max_gen_toks, or max_gen_toks in the generation_kwargs of the task.",
            )
    return tuple(
        f"{task}: {number} prompt{'s' if number > 1 else ''} longer than the model's context of {context} "
        "tokens (with the answer); their beginning is cut off"
        for task, number in evaluator.too_long(count, context).items()
    )


def _with_files(plan: MergePlan) -> Path:
    from evomerge.tokenizers.vocabulary import has_tokenizer

    folder = plan.tokenizer.path
    if not has_tokenizer(folder):
        raise CheckpointError(
            _named(plan),
            "there is no tokenizer in this folder, and its tasks need one",
            "Copy the tokenizer files of the model it was made from into the folder "
            "(tokenizer.json, tokenizer_config.json), or set tokenizer_source in the recipe.",
        )
    return folder


def _named(plan: MergePlan) -> str:
    """The model whose tokenizer is taken, as the experiment calls it."""
    folder = plan.tokenizer.path
    names = [name for name, c in plan.checkpoints.items() if folder in (c.path, c.tokenizer)]
    return f"model {names[0]} ({folder})" if names else str(folder)


def _context(config: Any, tokenizer: Any) -> int:
    """Tokens that the model takes, as lm-eval works it out."""
    if (stated := _context_of_model(config)) is not None:
        return stated
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < _UNLIMITED else 2048


def _context_of_model(config: Any) -> int | None:
    values = config if isinstance(config, dict) else vars(config)
    text = values.get("text_config") or {}
    text = text if isinstance(text, dict) else vars(text)
    for part in (values, text):
        for field in _CONTEXT_FIELDS:
            if isinstance(part.get(field), int):
                return int(part[field])
    return None
