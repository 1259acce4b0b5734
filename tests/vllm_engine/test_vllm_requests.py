"""Every kind of request: vLLM's answers are those of transformers for the merge on disk."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vllm_support import asked, linear, on_disk, passthrough

from evomerge.backends.resident import ResidentModel
from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.errors import CandidateError, FailureKind, FitnessError
from evomerge.fitness.askable import NonFiniteLogitsError
from evomerge.fitness.deadline import Deadline

Engine = Callable[..., ResidentModel]
RECIPE = linear(0.6)
TOLERANCE = 2e-4
"""Of a log-probability in float32; what was seen is a hundredth of it."""


@pytest.fixture(scope="module")
def theirs(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("merged") / "out"
    merge_to_disk(RECIPE, open_sources({n: str(zoo / n) for n in ("add", "sort")}), folder)
    return on_disk(folder)


@pytest.fixture
def ours(engine: Engine) -> Any:
    model = engine()
    model.load(RECIPE)
    return model.lm(4)


def text(length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("0123456789+=abcde", k=length))


PAIRS = {
    "one token": [("A12+34=", "4"), ("A12+34=", "7"), ("A99+1=", "1")],
    "several tokens": [("A12+34=", "46\n"), ("Sdbca=", "abcd\n"), ("S", text(30))],
    "no context": [("", "A12"), ("", "46")],
    "a space at the end": [("A12+34= ", "46")],
    "the whole context": [(text(100), text(28)), (text(101, 1), text(28, 2))],
    "more than the context": [(text(300), "46"), (text(90), text(100))],
}


@pytest.mark.parametrize("name", PAIRS)
def test_log_likelihoods_and_greedy_flags(name: str, ours: Any, theirs: Any) -> None:
    requests = asked("loglikelihood", *PAIRS[name])
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    for (logprob, greedy), (want, is_greedy), (_, answer) in zip(found, expected, PAIRS[name], strict=True):
        assert logprob == pytest.approx(want, abs=TOLERANCE * len(answer))
        assert greedy == is_greedy


def test_a_greedy_answer_is_flagged_so_and_another_is_not(ours: Any) -> None:
    [answer] = ours.generate_until(asked("generate_until", ("A12+34=", {"until": ["\n"], "max_gen_toks": 2})))
    other = "x" + answer[1:]
    found = ours.loglikelihood(asked("loglikelihood", ("A12+34=", answer), ("A12+34=", other)))
    assert [greedy for _, greedy in found] == [True, False]


@pytest.mark.parametrize("length", [1, 30, 127, 128, 129, 400])
def test_rolling_log_likelihoods_of_texts_of_any_length(length: int, ours: Any, theirs: Any) -> None:
    requests = asked("loglikelihood_rolling", (text(length),), (text(length, 1),))
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, abs=TOLERANCE * length)


GENERATED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "to a stop": [(f"A{a}+{b}=", {"until": ["\n"], "max_gen_toks": 8}) for a in (1, 12) for b in (7, 30)],
    "stops of several tokens": [("Sdbca=", {"until": ["cd", "zz"], "max_gen_toks": 12})],
    "to the end of the text": [("A12+34=", {"until": [], "max_gen_toks": 20})],
    "cut": [("Sdbcaefh=", {"until": ["\n"], "max_gen_toks": 3})],
    "of a prompt that is too long": [(text(300), {"until": ["\n"], "max_gen_toks": 16})],
    "in the whole context": [(text(112, 3), {"until": ["~"], "max_gen_toks": 16})],
    "with a penalty": [("A12+34=", {"until": ["\n"], "max_gen_toks": 8, "repetition_penalty": 1.3})],
}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_answers(name: str, ours: Any, theirs: Any) -> None:
    requests = asked("generate_until", *GENERATED[name])
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_a_sampled_answer_follows_the_seed_of_its_request_and_no_other_request(ours: Any) -> None:
    settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": True, "temperature": 2.0, "top_k": 0}

    def sampled(*seeds: int) -> list[str]:
        requests = [("A12+34=", {**settings, "seed": seed}) for seed in seeds]
        return list(ours.generate_until(asked("generate_until", *requests)))

    seeds = range(1000, 1032)
    first = sampled(*seeds)
    assert len(set(first)) > 1
    assert sampled(*seeds) == first
    for position in (3, first.index(min(first)), first.index(max(first))):
        assert sampled(seeds[position]) == [first[position]]


@pytest.mark.parametrize("end", ["5", "=", "~"])
def test_thoughts_are_cut_as_lm_eval_cuts_them(end: str, ours: Any, theirs: Any) -> None:
    prompts = [f"A{a}+{b}=" for a in (1, 12, 35) for b in (7, 20)]
    for token in (end, ours.tok_encode(end)[-1]):
        settings = {"until": ["\n"], "max_gen_toks": 12, "think_end_token": token}
        requests = asked("generate_until", *[(prompt, settings) for prompt in prompts])
        assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_an_unknown_setting_for_generation_is_an_error_of_the_users(ours: Any) -> None:
    requests = asked("generate_until", ("A", {"until": [], "max_gen_toks": 2, "topk": 5}))
    with pytest.raises(FitnessError, match=r"'topk' is not known to vLLM\. Did you mean 'top_k'"):
        ours.generate_until(requests)


def test_what_vllm_refuses_is_an_error_of_the_users(ours: Any) -> None:
    settings = {"until": [], "max_gen_toks": 2, "do_sample": True, "temperature": 3.0}
    with pytest.raises(FitnessError, match="temperature must be in"):
        ours.generate_until(asked("generate_until", ("A", settings)))


def test_limits_and_tokens_are_those_of_transformers(ours: Any, theirs: Any) -> None:
    assert ours.max_length == theirs.max_length
    assert ours.tok_encode("A12+34=") == theirs.tok_encode("A12+34=")
    assert ours.tokenizer_name
    assert ours.device == torch.device("cpu")


def test_a_prompt_asked_before_an_update_is_answered_by_the_new_weights(engine: Engine) -> None:
    model = engine()
    long = text(100, 5)
    requests = asked("generate_until", *[(long, {"until": ["~"], "max_gen_toks": 8})] * 2)
    found = []
    for weight in (1.0, 0.0, 1.0):
        model.load(linear(weight))
        found.append(model.lm(4).generate_until(requests))
    assert found[0] == found[2] != found[1]


def test_logits_that_are_not_finite_are_no_answers(engine: Engine, zoo: Path, tmp_path: Path) -> None:
    file = shutil.copytree(zoo / "add", tmp_path / "hot") / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = torch.full_like(tensors["lm_head.weight"], 3e38)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)
    save_file(tensors, file, {"format": "pt"})
    model = engine(hot=str(tmp_path / "hot"))
    try:
        model.load(passthrough("hot"))
        lm = model.lm(4)
        [(logprob, _)] = lm.loglikelihood(asked("loglikelihood", ("A12+34=", "46")))
        assert not math.isfinite(logprob)
        assert not math.isfinite(lm.loglikelihood_rolling(asked("loglikelihood_rolling", ("A12+34=46",)))[0])
        with pytest.raises(NonFiniteLogitsError) as caught:
            lm.generate_until(asked("generate_until", ("A12+34=", {"until": ["\n"], "max_gen_toks": 4})))
        assert caught.value.request == 0
    finally:
        model.close()


def test_a_deadline_ends_the_requests_and_leaves_the_engine_as_it_was(engine: Engine) -> None:
    model = engine()
    model.load(RECIPE)
    requests = asked("loglikelihood", *[(text(90, i), "46") for i in range(20)])
    expected = model.lm(4).loglikelihood(requests)
    with pytest.raises(CandidateError) as caught:
        model.lm(4, Deadline.after(0.0)).loglikelihood(requests)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert model.lm(4).loglikelihood(requests) == expected
