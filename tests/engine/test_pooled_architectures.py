"""Our own batches against each architecture's own forward pass and ``generate``, sequence by sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from architectures import Case

from evomerge.backends.architectures import Batching, batching_of, longest_shared
from evomerge.backends.batches import PassLimit, fill_rows
from evomerge.backends.decoding import Decoding, StopTexts
from evomerge.backends.forward_pass import ForwardPass, wanted_positions
from evomerge.backends.generation import Generator, Prompt
from evomerge.backends.shared_prefixes import Read, plan_trees

DECODERS = architectures.decoders()
CONTEXT = 48
LIMIT = PassLimit(width=60, rows=4, tokens=200, outputs=100, kept=1000)
pytestmark = pytest.mark.filterwarnings("ignore")  # tiny models make libraries say much that means nothing


@pytest.fixture(autouse=True)
def _silent_on_one_thread() -> Iterator[None]:
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    logging.set_verbosity_warning()


def model_of(case: Case) -> Any:
    model = architectures.build(case)
    architectures.add_noise(model, 1)
    return model.float().eval()


def sequences(long: int) -> list[list[int]]:
    """Some begin alike (with ``long`` tokens), some are equal, one is the beginning of another."""
    random = torch.Generator().manual_seed(3)

    def tokens(count: int) -> list[int]:
        return [int(t) for t in torch.randint(3, 60, (count,), generator=random)]

    shared = tokens(long)
    context = shared + tokens(2)
    choices = [context + tokens(n) for n in (1, 2, 4)]
    return [*choices, choices[1], choices[2][:-1], shared + tokens(3), tokens(5), tokens(2)]


def log_probabilities(model: Any, reads: list[Read]) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}
    run = ForwardPass(model)
    for batch in fill_rows(plan_trees(reads, LIMIT.width), LIMIT):
        members = list(wanted_positions(batch))
        wanted = [int(place) for _, places in members for place in places]
        logits = run.logits(batch, wanted).log_softmax(dim=-1)
        for member, places in members:
            found[member], logits = logits[: len(places)], logits[len(places) :]
    return [found[n] for n in range(len(reads))]


@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_each_sequence_has_the_probabilities_that_it_has_alone(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.backends.shared_prefixes.LONG_PREFIX", 3)
    monkeypatch.setattr("evomerge.backends.shared_prefixes.CLOSE", 2)
    model = model_of(case)
    batching = batching_of(model)
    if batching is Batching.THEIRS:
        pytest.skip("lm-eval's own batches")
    most = longest_shared(model, CONTEXT) if batching is Batching.TREES else 0
    for length in (4, 20):  # within a sliding window, and beyond
        given = sequences(length)
        reads = [Read(np.array(s, dtype=np.int32), len(s) - 2, len(s) <= most) for s in given]
        found = log_probabilities(model, reads)
        for sequence, ours in zip(given, found, strict=True):
            alone = model(torch.tensor([sequence])).logits[0, -2:].log_softmax(dim=-1)
            torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4)


class _NoText:
    """A tokenizer under which no answer reaches a text that ends it."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, tokens: list[int]) -> str:
        return ""


@pytest.mark.parametrize("case", [c for c in DECODERS if c.model_type != "moshi"], ids=lambda case: case.name)
def test_generated_tokens_are_those_of_transformers(case: Case) -> None:
    model = model_of(case)
    if batching_of(model) is not Batching.TREES:
        pytest.skip("transformers' own loop")
    ends = frozenset(range(3, 12))  # so that answers end at different times
    prompts = [
        Prompt(n, np.array(tokens, dtype=np.int32), Decoding(("no such text",), 8 - n % 3, ends, None))
        for n, tokens in enumerate(sequences(9))
    ]
    generator = Generator(
        model,
        lambda until: StopTexts(_NoText(), until),
        LIMIT,
        longest_shared(model, CONTEXT),
        lambda: None,
    )
    answers = dict(generator.answers(prompts))
    assert len({len(tokens) for tokens in answers.values()}) > 1 or len(answers[0]) == 8
    for prompt in prompts:
        whole = model.generate(
            torch.from_numpy(prompt.tokens.astype(np.int64))[None],
            max_new_tokens=prompt.decoding.most,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=0,
        )
        assert answers[prompt.number] == whole[0, len(prompt.tokens) :].tolist()


def test_most_architectures_allow_trees_and_none_of_those_that_see_what_follows_does() -> None:
    allowed: dict[Batching, set[str]] = {each: set() for each in Batching}
    for case in DECODERS:
        allowed[batching_of(architectures.build(case))].add(case.name)
    common = {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "phi3",
        "mixtral",
        "olmo2",
    }
    assert common <= allowed[Batching.TREES]
    assert {"mamba", "jamba", "bloom", "falcon", "gptj", "qwen3_next"} <= allowed[Batching.ROWS]
    assert {"bert", "roberta", "xlnet", "bart"} <= allowed[Batching.THEIRS]
