"""Our own batches give the answers of lm-eval's ``HFLM``, whatever is asked together, and read less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fitness_support import make_model, make_tokenizer
from lm_eval.api.instance import Instance

from evomerge.backends.pooled_lm import PooledModel
from evomerge.backends.transformers_lm import LoadedModel
from evomerge.errors import CandidateError, FailureKind, FitnessError
from evomerge.fitness import Evaluator, FitnessSpec, ItemSet, Split
from evomerge.fitness.answering import Request, answer
from evomerge.fitness.askable import NonFiniteLogitsError

TEXTS = ["abcd", "abcdefgh" * 4, "ab" * 70, "hg fe", "a", "the cab had a bag", "bad cafe" * 11]
LONG = "".join(chr(97 + (n * n + 3 * n) % 11 % 8) for n in range(320))
"""Longer than the context; no two windows of it are alike (HFLM mistakes those, see below)."""
GREEDY = {"until": ["\n", "g"], "max_gen_toks": 9, "do_sample": False}
BATCHES = (1, 3, 16, "auto")


def tiny(kind: str) -> Any:
    """A random model of an architecture, with the vocabulary of the tests' tokenizer."""
    import transformers

    if kind == "llama":
        return make_model(0)
    sizes = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
        "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    own: dict[str, tuple[str, dict[str, Any]]] = {
        "tied llama": ("Llama", {"tie_word_embeddings": True}),
        "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
        "gemma2": ("Gemma2", {"sliding_window": 24, "final_logit_softcapping": 3.0}),
        "qwen2": ("Qwen2", {}),
        "mistral": ("Mistral", {"sliding_window": 24}),
        "cohere": ("Cohere", {"logit_scale": 0.25}),
        "granite": ("Granite", {"logits_scaling": 3.0}),
        "mamba": ("Mamba", {"state_size": 4, "time_step_rank": 4, "max_position_embeddings": 128}),
    }
    name, settings = own[kind]
    config = getattr(transformers, f"{name}Config")(**sizes | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


KINDS = ("llama", "tied llama", "gpt2", "gemma2", "qwen2", "mistral", "cohere", "granite", "mamba")


def likelihoods() -> list[Instance]:
    """Choices of one token and of several; without a context; prompts longer than the context."""
    pairs = [(text, choice) for text in TEXTS for choice in (" a", " b", " abc", " abd", "h")]
    pairs += [("", "cafe"), ("", "a"), ("ab ", "c"), ("ab", "hg fe"), ("ab", "hg fe")]
    return [Instance("loglikelihood", {}, pair, n, metadata=("t", n, 1)) for n, pair in enumerate(pairs)]


def texts() -> list[Instance]:
    given = [*TEXTS, LONG, TEXTS[0]]
    return [Instance("loglikelihood_rolling", {}, (t,), n, metadata=("t", n, 1)) for n, t in enumerate(given)]


def questions(options: Sequence[dict[str, Any]] = (GREEDY,)) -> list[Instance]:
    asked = [(text + ">", option) for option in options for text in [*TEXTS, TEXTS[0]]]
    return [Instance("generate_until", {}, args, n, metadata=("t", n, 1)) for n, args in enumerate(asked)]


def ask(model: Any, kind: str, requests: list[Instance], batch: Any = 4) -> Any:
    with torch.inference_mode():
        return getattr(model.lm(batch), kind)(requests, disable_tqdm=True)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[Any, Any]:
    """A model as lm-eval asks it, and as we do."""
    model = tiny(request.param)
    return LoadedModel(model, tokenizer), PooledModel(model, tokenizer)


def test_log_likelihoods_are_those_of_lm_eval_for_every_batch_size(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    expected = ask(theirs, "loglikelihood", likelihoods())
    for batch in BATCHES:
        found = ask(ours, "loglikelihood", likelihoods(), batch)
        assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        assert ask(ours, "loglikelihood", likelihoods(), batch) == found  # to the bit


def test_log_likelihoods_of_texts_are_those_of_lm_eval(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    expected = ask(theirs, "loglikelihood_rolling", texts())
    for batch in BATCHES:
        found = ask(ours, "loglikelihood_rolling", texts(), batch)
        assert found == pytest.approx(expected, rel=1e-5)
        assert ask(ours, "loglikelihood_rolling", texts(), batch) == found


def test_generated_texts_are_those_of_lm_eval_one_by_one(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    options = [GREEDY, {"until": "ab", "max_gen_toks": 4}, {"until": [], "max_new_tokens": 20}]
    expected = ask(theirs, "generate_until", questions(options), 1)
    assert len(set(expected)) > 3
    for batch in BATCHES:
        assert ask(ours, "generate_until", questions(options), batch) == expected


@pytest.mark.parametrize("end", ["c", 4 + ord("c") - 32, "never"])
def test_what_is_thought_before_an_answer_is_cut_as_lm_eval_does(end: str | int, tokenizer: Any) -> None:
    model = make_model(0)
    options = [GREEDY | {"think_end_token": end, "max_gen_toks": 20}, GREEDY]
    expected = ask(LoadedModel(model, tokenizer), "generate_until", questions(options), 1)
    assert ask(PooledModel(model, tokenizer), "generate_until", questions(options)) == expected


def test_answers_that_divide_the_same_text_elsewhere_are_told_apart(tokenizer: Any) -> None:
    """lm-eval 0.4.13 does not, with its cache of logits: it adds up the wrong tokens of the shorter one."""
    from lm_eval.models.huggingface import HFLM

    model = make_model(0)
    pairs = [("ab", "cdef"), ("abcd", "ef"), ("abcde", "f")]
    asked = [Instance("loglikelihood", {}, p, n, metadata=("t", n, 1)) for n, p in enumerate(pairs)]
    with torch.inference_mode():
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, logits_cache=False)
        expected = [value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    found = [value for value, _ in ask(PooledModel(model, tokenizer), "loglikelihood", asked)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_options_that_only_transformers_knows_give_its_texts(tokenizer: Any) -> None:
    model = make_model(0)
    options = [GREEDY | {"num_beams": 3}, GREEDY | {"repetition_penalty": 1.3}]
    expected = ask(LoadedModel(model, tokenizer), "generate_until", questions(options), 1)
    assert ask(PooledModel(model, tokenizer), "generate_until", questions(options), 1) == expected
    assert expected != ask(LoadedModel(model, tokenizer), "generate_until", questions([GREEDY] * 2), 1)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_a_sampled_text_depends_on_its_seed_and_on_nothing_beside_it(kind: str, tokenizer: Any) -> None:
    ours = PooledModel(tiny(kind), tokenizer)
    sampled = {"until": ["\n"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5}

    def asked(seeds: Sequence[int]) -> list[str]:
        found: list[str] = ask(
            ours, "generate_until", questions([sampled | {"seed": seed} for seed in seeds])
        )
        return found

    state = torch.random.get_rng_state()
    both, first = asked([1, 2]), asked([1])
    assert both[: len(first)] == first
    assert both[len(first) :] != first
    assert len(set(first)) > 3
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sampling_draws_as_often_as_the_probabilities_say(tokenizer: Any) -> None:
    model = make_model(0)
    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer.encode("abcd>")])).logits[0, -1] / 0.7
    likeliest = logits.topk(2).indices.tolist()
    kept = logits[likeliest].softmax(dim=-1)
    options = {"max_gen_toks": 1, "do_sample": True, "temperature": 0.7, "top_k": 2}
    asked = [
        Instance("generate_until", {}, ("abcd>", options | {"seed": seed}), seed, metadata=("t", seed, 1))
        for seed in range(400)
    ]
    drawn = ask(PooledModel(model, tokenizer), "generate_until", asked, 64)
    names = [tokenizer.decode([token]) for token in likeliest]
    assert set(drawn) == set(names)
    assert drawn.count(names[0]) / len(drawn) == pytest.approx(float(kept[0]), abs=0.1)


def spec(tasks_dir: Path, *tasks: str, **settings: Any) -> Evaluator:
    given = {"tasks": list(tasks), "include_path": tasks_dir.name, **settings}
    return Evaluator(FitnessSpec.model_validate(given), tasks_dir.parent)


def test_scores_are_those_of_lm_eval_and_other_tasks_beside_them_change_none(
    tasks_dir: Path, tokenizer: Any
) -> None:
    tasks = ("t_choice", "t_binary", "t_generate", "t_likelihood", "t_rolling")
    model = make_model(0)
    ours = PooledModel(model, tokenizer)
    theirs = spec(tasks_dir, *tasks).score(LoadedModel(model, tokenizer), ItemSet(Split.SEARCH))
    together = spec(tasks_dir, *tasks).score(ours, ItemSet(Split.SEARCH))
    assert together == spec(tasks_dir, *tasks).score(ours, ItemSet(Split.SEARCH))
    for name, expected, found in zip(tasks, theirs.tasks, together.tasks, strict=True):
        (alone,) = spec(tasks_dir, name).score(ours, ItemSet(Split.SEARCH)).tasks
        for task in (found, alone):
            assert [i.item for i in task.items] == [i.item for i in expected.items]
            values = [i.value for i in expected.items]
            assert [i.value for i in task.items] == pytest.approx(values, rel=1e-5)


def test_a_shared_beginning_is_read_once(tokenizer: Any) -> None:
    model = make_model(0)
    read: list[int] = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    choices = [(f"{'abcdefgh' * 8} {n}", f"{c}bcd") for n in range(3) for c in "efgh"]
    asked = [Instance("loglikelihood", {}, c, n, metadata=("t", n, 1)) for n, c in enumerate(choices)]
    ask(LoadedModel(model, tokenizer), "loglikelihood", asked)
    theirs = sum(read)
    read.clear()
    ask(PooledModel(model, tokenizer), "loglikelihood", asked)
    assert sum(read) < theirs / 6


def test_texts_are_encoded_once_for_all_candidates(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = PooledModel(make_model(0), tokenizer)

    def all_answers() -> list[Any]:
        asked = (
            ("loglikelihood", likelihoods()),
            ("loglikelihood_rolling", texts()),
            ("generate_until", questions()),
        )
        return [ask(ours, kind, requests) for kind, requests in asked]

    first = all_answers()
    whole, encoded = type(tokenizer).encode, []
    monkeypatch.setattr(
        type(tokenizer), "encode", lambda *args, **kwargs: encoded.append(args[1]) or whole(*args, **kwargs)
    )
    assert all_answers() == first
    assert set(encoded) <= {"\n", "g", "</s>"}  # what ends an answer


@pytest.mark.parametrize("most", [1, 3])
def test_out_of_memory_is_tried_again_with_half_as_much(
    most: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.backends.forward_pass import ForwardPass

    ours = PooledModel(make_model(0), tokenizer)
    expected = ask(ours, "loglikelihood", likelihoods(), 16)
    whole, rows = ForwardPass.logits, []

    def hungry(self: Any, batch: Any, wanted: Any) -> Any:
        rows.append(len(batch.rows))
        if len(batch.rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, wanted)

    monkeypatch.setattr(ForwardPass, "logits", hungry)
    found = ask(ours, "loglikelihood", likelihoods(), 16)
    assert max(rows) > most
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5)
    monkeypatch.setattr("evomerge.backends.forward_pass.ForwardPass.logits", _never)
    with pytest.raises(CandidateError) as caught:
        ask(ours, "loglikelihood", likelihoods(), "auto")
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY


def _never(*_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_logits_that_are_not_finite_give_no_answer(tokenizer: Any) -> None:
    model = make_model(0)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("h")] = float("nan")
    ours = PooledModel(model, tokenizer)
    values = [value for value, _ in ask(ours, "loglikelihood", likelihoods(), 1)]
    broken = ["h" in request.args[0] + request.args[1][:-1] for request in likelihoods()]
    # It may spread to what shares a row: attention hides a value by a weight of 0, and 0 * NaN is NaN.
    assert all(not math.isfinite(value) for value, bad in zip(values, broken, strict=True) if bad)
    with pytest.raises(NonFiniteLogitsError):
        ask(ours, "generate_until", questions())
    healthy = [request for request in likelihoods() if "h" not in request.args[0] + request.args[1]]
    assert all(math.isfinite(value) for value, _ in ask(ours, "loglikelihood", healthy))


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (("ab", "cd" * 80), "its answer has 160 tokens, the model's context 128"),
        (("ab", ""), "makes no tokens of its answer"),
        (("", ""), "makes no tokens of its answer"),
        (("  ", "a"), "makes no tokens of its prompt"),
    ],
)
def test_a_request_that_cannot_be_answered_is_named(pair: tuple[str, str], told: str, tokenizer: Any) -> None:
    bad = [("ab", "cd"), pair]
    asked = [
        Request("mine", f"item-{n}", Instance("loglikelihood", {}, p, n, metadata=("mine", n, 1)))
        for n, p in enumerate(bad)
    ]
    with pytest.raises(FitnessError, match=f"fitness.tasks: mine: .* item item-1: .*{told}"):
        answer(PooledModel(make_model(0), tokenizer).lm("auto"), asked)


def test_a_tokenizer_needs_an_end_token_and_no_padding() -> None:
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    padless = make_tokenizer(**special)
    whole = make_tokenizer(**special, pad_token="<pad>")
    expected = ask(PooledModel(make_model(0), whole), "generate_until", questions())
    assert ask(PooledModel(make_model(0), padless), "generate_until", questions()) == expected
    assert padless.pad_token_id is None
    with pytest.raises(FitnessError, match="no end-of-text token"):
        PooledModel(make_model(0), make_tokenizer(unk_token="<unk>")).lm(4)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_thoughts_are_cut_as_in_lm_evals_own_batches_each_request_by_its_own_mark(
    kind: str, tokenizer: Any
) -> None:
    model = tiny(kind)
    whole = ask(LoadedModel(model, tokenizer), "generate_until", questions([{**GREEDY, "until": ["\n"]}]))
    marks = [whole[0][2], whole[1][1], tokenizer.encode(whole[1][2], add_special_tokens=False)[-1], None]
    options = [{**GREEDY, "until": ["\n"], **({} if m is None else {"think_end_token": m})} for m in marks]
    requests = questions(options)
    expected = [ask(LoadedModel(model, tokenizer), "generate_until", [r])[0] for r in requests]
    assert ask(PooledModel(model, tokenizer), "generate_until", requests) == expected
    assert expected[: len(whole)] != whole
    assert expected[-len(whole) :] == whole
