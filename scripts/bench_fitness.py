"""Seconds to score a candidate against `lm_eval.simple_evaluate` on the same model and items, in one run.

    python scripts/bench_fitness.py                                     the zoo's model and tasks
    python scripts/bench_fitness.py --model FOLDER [--dtype bfloat16] [--items 32] [--runs 3] [--device cuda]
    python scripts/bench_fitness.py --model FOLDER --switches           each part of our batching off in turn

With `--model` the tasks are made here: 5-shot multiple choice (examples drawn for each item, four answers of
several tokens), the same with one set of examples, generation of up to 64 tokens, and whole texts. Seconds
are those of this process on a CPU, one thread, and of the clock on a GPU. The ways take turns; medians. The
last column compares each answer with that of lm-eval's model to the same request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import evomerge.backends.forward_pass as forward_pass
from evomerge.backends.architectures import Batching
from evomerge.backends.pooled_lm import PooledLM, PooledModel
from evomerge.backends.token_cache import TokenCache
from evomerge.backends.transformers_lm import LoadedModel, with_padding
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Measure, Split
from evomerge.fitness.answering import answer
from evomerge.fitness.lm_eval_index import task_manager
from evomerge.fitness.lm_eval_tasks import build_tasks

ROOT = Path(__file__).resolve().parent.parent
ZOO_TASKS = ("zoo_sort", "zoo_add", "zoo_drift")
MADE_TASKS = ("choice_5_shot", "choice_5_fixed", "generation", "texts")
BATCH = 16
"""Sequences in a pass of lm-eval: what evomerge used before."""

NAMES = ["Tom", "Ann", "Bob", "Eva", "Max", "Lea", "Ida", "Kim", "Ben", "Zoe"]
THINGS = ["apples", "pears", "books", "stones", "shells", "pens", "cups", "coins", "cards", "balls"]
PLACES = ["at the market", "in the garden", "near the river", "behind the school", "on the table"]

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{file}.jsonl, train: {folder}/{file}_shots.jsonl}}}}
test_split: test
output_type: {kind}
{more}
"""
CHOICE = """\
fewshot_split: train
num_fewshot: 5
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
GENERATION = """\
doc_to_text: "{{question}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 64, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TEXTS = """\
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
"""


def document(numbers: random.Random, prompt: Callable[[str], str]) -> dict[str, Any]:
    """One item for all of the tasks."""
    name, thing, place = numbers.choice(NAMES), numbers.choice(THINGS), numbers.choice(PLACES)
    a, b = numbers.randint(2, 40), numbers.randint(2, 40)
    story = f"{name} finds {a} {thing} {place} and gets {b} more from a friend."
    wrong = numbers.sample([n for n in range(4, 90) if n != a + b], 3)
    answers = [f"{name} now has {number} {thing} {place}." for number in (a + b, *wrong)]
    order = numbers.sample(range(4), 4)
    text = " ".join(
        f"{numbers.choice(NAMES)} puts {numbers.randint(2, 99)} {numbers.choice(THINGS)} "
        f"{numbers.choice(PLACES)}."
        for _ in range(numbers.randint(2, 25))
    )
    return {
        "question": prompt(f"{story} How many {thing} does {name} have now?"),
        "choices": [answers[n] for n in order],
        "answer": order.index(0),
        "text": text,
    }


def write_tasks(folder: Path, items: int, tokenizer: Any) -> None:
    """The tasks of a real language model; its chat template is around the questions of the generation."""
    numbers = random.Random(7)

    def chat(question: str) -> str:
        if not tokenizer.chat_template:
            return question
        turns = [{"role": "user", "content": question}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    for file, prompt in (("plain", str), ("chat", chat)):
        for name, count in ((file, items), (f"{file}_shots", 40)):
            rows = [json.dumps(document(numbers, prompt)) for _ in range(count)]
            (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    fixed = CHOICE + "fewshot_config: {sampler: first_n}\n"
    for name, kind, file, more in (
        ("choice_5_shot", "multiple_choice", "plain", CHOICE),
        ("choice_5_fixed", "multiple_choice", "plain", fixed),
        ("generation", "generate_until", "chat", GENERATION),
        ("texts", "loglikelihood_rolling", "plain", TEXTS),
    ):
        text = TASK.format(folder=folder, name=name, kind=kind, file=file, more=more)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def copy_zoo(folder: Path) -> None:
    """The tasks of the zoo with whole paths to their data, which is what lm-eval itself needs."""
    for file in (ROOT / "fitness" / "zoo").glob("*.yaml"):
        text = file.read_text(encoding="utf-8").replace("{test: ", f"{{test: {file.parent}/")
        (folder / file.name).write_text(text, encoding="utf-8")


class Bench:
    """One model, and one set of tasks to score it on."""

    def __init__(self, model: Any, tokenizer: Any, tasks: tuple[str, ...], folder: Path, items: int) -> None:
        self.model, self.tokenizer, self.tasks, self.folder = model, tokenizer, tasks, folder
        self.spec = FitnessSpec.model_validate(
            {
                "tasks": list(tasks),
                "include_path": str(folder),
                "splits": {"search": items, "validation": 1, "test": 1},
            }
        )
        self.evaluator = Evaluator(self.spec, ROOT)
        self.sixteen = Evaluator(self.spec.model_copy(update={"batch_size": BATCH}), ROOT)
        self.pooled = PooledModel(model, tokenizer)
        self.padded = with_padding(tokenizer)
        self.positions = {
            task.info.task: sorted(task._splits[Split.SEARCH])  # noqa: SLF001
            for task in build_tasks(self.spec, ROOT)
        }

    def simple_evaluate(self) -> None:
        """What a user of lm-eval runs: its tasks are loaded once, its requests are made each time."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        if not hasattr(self, "manager"):
            self.manager = task_manager(self.tasks, [self.folder])
        lm = HFLM(pretrained=self.model, tokenizer=self.padded, batch_size=BATCH)
        done = simple_evaluate(
            lm,
            tasks=list(self.tasks),
            task_manager=self.manager,
            samples=self.positions,
            bootstrap_iters=0,
        )
        assert len(done["results"]) == len(self.tasks)

    def lm_eval_engine(self) -> None:
        self.sixteen.score(LoadedModel(self.model, self.tokenizer), ItemSet(Split.SEARCH))

    def evomerge(self, *, sixteen: bool = False, pooled: PooledModel | None = None) -> None:
        evaluator = self.sixteen if sixteen else self.evaluator
        evaluator.score(pooled or self.pooled, ItemSet(Split.SEARCH))

    def ways(self, *, switches: bool) -> dict[str, Callable[[], None]]:
        ways: dict[str, Callable[[], None]] = {
            "lm_eval.simple_evaluate": self.simple_evaluate,
            "engine lm_eval": self.lm_eval_engine,
            "engine transformers": self.evomerge,
        }
        if not switches:
            return ways
        return ways | {
            "batch_size: 16": lambda: self.evomerge(sixteen=True),
            "tokens not kept": self.without_tokens,
            "task by task": lambda: self.patched(PooledLM, "pools", new=False),
            "no trees": lambda: self.patched(self.pooled, "_batching", Batching.ROWS),
            "head reads all positions": lambda: self.patched(forward_pass, "_only", _all_positions),
            "generation by transformers": lambda: self.patched(PooledLM, "_decoding", lambda *_: None),
        }

    def without_tokens(self) -> None:
        self.pooled.tokens = TokenCache(self.padded)
        self.evomerge()

    def patched(self, where: Any, name: str, new: Any) -> None:
        with mock.patch.object(where, name, new):
            self.evomerge()

    def agreement(self) -> dict[str, str]:
        """For each task, how our answers compare with those of ``HFLM`` in the same dtype."""
        theirs, ours = self._answers(LoadedModel(self.model, self.tokenizer)), self._answers(self.pooled)
        return {task: _agreement(theirs[task], ours[task]) for task in self.tasks}

    def _answers(self, model: Any) -> dict[str, list[list[Any]]]:
        lm = model.lm(BATCH)
        found: dict[str, list[list[Any]]] = {}
        for task in build_tasks(self.spec, ROOT):
            requests = task.requests(ItemSet(Split.SEARCH), Measure.METRIC, lm)
            with torch.inference_mode():
                answer(lm, requests)
            by_item: dict[str, list[Any]] = {}
            for request in requests:
                by_item.setdefault(request.item, []).append(request.instance.resps[0])
            found[task.info.task] = list(by_item.values())
        return found


@contextlib.contextmanager
def _all_positions(*_: Any) -> Iterator[list[bool]]:
    yield []


def _agreement(theirs: list[list[Any]], ours: list[list[Any]]) -> str:
    if isinstance(theirs[0][0], str):
        same = sum(a == b for a, b in zip(theirs, ours, strict=True))
        return f"{same} of {len(theirs)} texts"

    def value(given: Any) -> float:
        return float(given[0] if isinstance(given, tuple) else given)

    pairs = [
        (value(a), value(b)) for x, y in zip(theirs, ours, strict=True) for a, b in zip(x, y, strict=True)
    ]
    worst = max(abs(a - b) / abs(a) for a, b in pairs)
    if len(theirs[0]) == 1:
        return f"within {worst:.1e}"

    def best(item: list[Any]) -> int:
        return max(range(len(item)), key=lambda n: value(item[n]))

    same = sum(best(a) == best(b) for a, b in zip(theirs, ours, strict=True))
    return f"{same} of {len(theirs)} choices, within {worst:.1e}"


def measure(bench: Bench, runs: int, device: str, *, switches: bool) -> dict[str, float]:
    """Median seconds of each way; a turn before warms up."""
    ways = bench.ways(switches=switches)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    for turn in range(runs + 1):
        for name, way in ways.items():
            if not turn and way == bench.simple_evaluate:
                continue  # nothing of it is kept
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            start = clock()
            way()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:
                taken[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder; without it the zoo")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--items", type=int, default=32, help="items of each task")
    parser.add_argument("--runs", type=int, default=3, help="turns, after one to warm up")
    parser.add_argument("--tasks", nargs="*", help="only these tasks")
    parser.add_argument("--switches", action="store_true", help="each part of our batching off in turn")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    folder = given.model or ROOT / "experiments" / "zoo" / "add"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=given.dtype).to(given.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        if given.model:
            write_tasks(place, given.items + 2, tokenizer)
        else:
            copy_zoo(place)
        names = given.tasks or (MADE_TASKS if given.model else ZOO_TASKS)
        sets = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
        print(f"{folder.name}, {given.dtype}, {given.device}, {given.items} items a task")
        for tasks in sets:
            bench = Bench(model, tokenizer, tasks, place, given.items)
            agree = bench.agreement() if len(tasks) == 1 else {}
            seconds = measure(bench, given.runs, given.device, switches=given.switches)
            first = seconds["lm_eval.simple_evaluate"]
            for name, taken in seconds.items():
                shown = agree.get(tasks[0], "") if name == "engine transformers" else ""
                print(
                    f"| {' + '.join(tasks)} | {name} | {taken:.3f} | {first / taken:.1f} | {shown} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
