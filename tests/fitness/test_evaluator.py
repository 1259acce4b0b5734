"""Memory, laziness, and what an evaluator costs at import."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fitness_support import GENERATE

from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import CandidateError, FailureKind
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Split
from evomerge.fitness.deadline import Deadline


def evaluator(tasks_dir: Path, **settings: Any) -> Evaluator:
    spec = {"tasks": ["t_choice"], "include_path": tasks_dir.name, "batch_size": 8, **settings}
    return Evaluator(FitnessSpec.model_validate(spec), tasks_dir.parent)


class Hungry(torch.nn.Module):
    """Raises what a full memory raises when a batch has more rows than ``rows``."""

    def __init__(self, model: Any, rows: int, error: Exception | None = None) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.rows = rows
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        model.model.register_forward_pre_hook(self._weigh, with_kwargs=True)

    def _weigh(self, _: Any, args: Any, kwargs: Any) -> None:
        batch = kwargs.get("input_ids", args[0] if args else None)
        self.batches.append(len(batch))
        if len(batch) > self.rows:
            raise self.error


def allocation_error() -> Exception:
    """What torch itself raises when a CPU has no such memory."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return RuntimeError(str(error))
    raise AssertionError("this machine has an exbibyte")


@pytest.mark.parametrize("error", [None, MemoryError(), allocation_error()], ids=["cuda", "python", "cpu"])
def test_out_of_memory_is_tried_again_with_half_the_batch(
    tasks_dir: Path, model: Any, tokenizer: Any, error: Exception | None
) -> None:
    expected = evaluator(tasks_dir).score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    hungry = Hungry(model, 3, error)
    assert evaluator(tasks_dir).score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH)) == expected
    assert hungry.batches[:3] == [8, 4, 2]
    assert set(hungry.batches[2:-1]) == {2}


def test_the_next_candidate_starts_with_the_whole_batch_again(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    ours = evaluator(tasks_dir)
    hungry = Hungry(model, rows=4)
    ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    hungry.batches.clear()
    ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert hungry.batches[:2] == [8, 4]


def test_a_sequence_that_does_not_fit_alone_fails_the_candidate(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    hungry = Hungry(model, rows=0)
    with pytest.raises(CandidateError, match=r"t_choice.* batch of 1 \(tried: 8, 4, 2, 1\)") as caught:
        evaluator(tasks_dir).score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY
    assert hungry.batches == [8, 4, 2, 1]


def test_another_error_of_the_model_is_a_bug_and_no_lack_of_memory(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    hungry = Hungry(model, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        evaluator(tasks_dir).score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert hungry.batches == [8]


def test_a_model_in_training_mode_is_scored_in_eval_mode(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    model.train()
    evaluator(tasks_dir).score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


class Slow:
    """Counts forward passes and makes each take ``seconds``."""

    def __init__(self, model: Any, seconds: float) -> None:
        self.passes = 0
        self.seconds = seconds
        self._hook = model.model.register_forward_pre_hook(self._wait)

    def _wait(self, *_: Any) -> None:
        self.passes += 1
        time.sleep(self.seconds)

    def remove(self) -> None:
        self._hook.remove()


LONG = GENERATE.replace("t_generate", "t_long").replace("max_gen_toks: 6", "max_gen_toks: 90")
LONG = LONG.replace("tag: [t_tag, t_other]\n", "").replace('until: ["\\n"]', 'until: ["<never>"]')


@pytest.mark.parametrize("task", ["t_long", "t_likelihood", "t_rolling"])
def test_time_that_runs_out_fails_the_candidate_and_leaves_the_next_one_alone(
    tasks_dir: Path, model: Any, tokenizer: Any, task: str
) -> None:
    (tasks_dir / "long.yaml").write_text(LONG)
    ours = evaluator(tasks_dir, tasks=[task], splits={"search": 6}, batch_size=1)
    expected = ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    slow = Slow(model, 0.02)
    with pytest.raises(CandidateError, match=r"not finished after 0\.07 seconds") as caught:
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH), deadline=Deadline.after(0.07))
    assert caught.value.kind is FailureKind.TIMEOUT
    assert 1 <= slow.passes <= 4  # within one answer of 90 tokens, or six items
    slow.remove()
    assert (
        ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH), deadline=Deadline.after(1e6))
        == expected
    )


def test_a_deadline_that_is_past_lets_no_forward_pass_begin(
    tasks_dir: Path, model: Any, tokenizer: Any
) -> None:
    for task in ("t_generate", "t_choice"):
        slow = Slow(model, 0.0)
        with pytest.raises(CandidateError) as caught:
            evaluator(tasks_dir, tasks=[task]).score(
                LoadedModel(model, tokenizer), ItemSet(Split.SEARCH), deadline=Deadline.after(0.0)
            )
        assert caught.value.kind is FailureKind.TIMEOUT
        assert slow.passes == 0


def test_the_evaluator_keeps_no_model_alive(tasks_dir: Path, tokenizer: Any) -> None:
    import gc
    import weakref

    from fitness_support import make_model

    ours = evaluator(tasks_dir)
    model = make_model(0)
    ours.score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_splits_are_disjoint_and_described_as_scored(tasks_dir: Path, model: Any, tokenizer: Any) -> None:
    ours = evaluator(tasks_dir, splits={"search": 10, "validation": 0.25, "test": 12, "seed": 3})
    seen: list[str] = []
    (info,) = ours.describe()
    for split in Split:
        (score,) = ours.score(LoadedModel(model, tokenizer), ItemSet(split)).tasks
        assert len(score.items) == info.items[split]
        seen += [item.item for item in score.items]
    assert list(info.items.values()) == [10, 10, 12]
    assert len(set(seen)) == len(seen) == 32
    assert (info.metric, info.filter, info.aggregation, info.higher_is_better) == (
        "acc",
        "none",
        "mean",
        True,
    )


def test_importing_the_room_loads_no_heavy_library() -> None:
    code = (
        "import sys, evomerge.fitness\n"
        "print([m for m in ('torch', 'lm_eval', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
