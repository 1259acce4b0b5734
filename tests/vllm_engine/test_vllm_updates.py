"""Merges inside vLLM: every method, adapters and tied models have the weights of the merge on disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from method_support import EXAMPLES
from safetensors.torch import save_file
from vllm_support import ENGINE_ARGS, asked, linear, on_disk, passthrough

from evomerge.backends import vllm_canary
from evomerge.backends.registry import resident_model
from evomerge.backends.resident import ModelSettings, ResidentModel
from evomerge.backends.vllm_engine import EngineFailedError, Request, VllmEngine
from evomerge.backends.vllm_model import VllmModel
from evomerge.engine.export import merge_to_disk
from evomerge.engine.sources import open_sources
from evomerge.errors import CandidateError, FailureKind, UserError
from evomerge.methods import Base, get_method, methods
from evomerge.recipe import Recipe, parse_recipe

Engine = Callable[..., ResidentModel]
REQUESTS = asked("loglikelihood", ("A12+34=", "46\n"), ("Sdbca=", "abcd\n"), ("A", "zzzz"), ("", "A1+1=2"))


def example(name: str) -> Recipe:
    """A recipe with the example of a method, on two experts (or as many as it takes)."""
    method = get_method(name)
    count = min(method.models[1] or 2, 2)
    parameters = EXAMPLES[name].parameters
    per_model = {k: v for k, v in parameters.items() if isinstance(v, tuple)}
    experts = [
        {"model": model, "parameters": {k: v[i] for k, v in per_model.items()}}
        for i, model in enumerate(("add", "sort")[:count])
    ]
    document: dict[str, Any] = {
        "merge_method": name,
        "models": experts,
        "parameters": {k: v for k, v in parameters.items() if k not in per_model},
        "dtype": "bfloat16",
    }
    if method.base is not Base.NONE:
        document["base_model"] = "base"
    return parse_recipe(document)


def check(model: ResidentModel, recipe: Recipe, sources: dict[str, str], folder: Path) -> None:
    """What ``model`` says of the merge is what transformers says of the folder of ``evomerge merge``."""
    written = merge_to_disk(recipe, open_sources(sources), folder)
    assert model.load(recipe) == written.fingerprint
    expected = on_disk(folder).loglikelihood(REQUESTS, disable_tqdm=True)
    found = model.lm(4).loglikelihood(REQUESTS)
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], abs=2e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("name", [method.name for method in methods()])
def test_every_method(name: str, engine: Engine, zoo: Path, tmp_path: Path) -> None:
    sources = {n: str(zoo / n) for n in ("base", "add", "sort")}
    check(engine(), example(name), sources, tmp_path / "out")


def test_vllm_knows_the_weights_by_their_fingerprint(engine: Engine) -> None:
    model = engine()
    for weight in (0.3, 0.8):
        fingerprint = model.load(linear(weight))
        assert isinstance(model, VllmModel)
        assert model.version == fingerprint


def test_adapters(engine: Engine, zoo: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    sources = {"base": str(zoo / "base")}
    for seed, name in enumerate(("add", "sort")):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(zoo / "base", dtype=torch.float32)
        targets = ["q_proj", "v_proj", "down_proj"]
        tuned = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
        for key, weight in tuned.named_parameters():
            if "lora_B" in key:
                weight.data.normal_(0, 0.05)
        tuned.save_pretrained(tmp_path / name)
        sources[name] = f"{zoo / 'base'}+{tmp_path / name}"
    model = engine(**sources)
    check(model, example("ties"), sources, tmp_path / "out")
    check(model, example("dare_linear"), sources, tmp_path / "again")
    model.close()


def test_tied_embeddings(engine: Engine, zoo: Path, tmp_path: Path) -> None:
    import json

    sources = {}
    for name in ("base", "add", "sort"):
        tensors = open_sources({"m": str(zoo / name)})["m"]
        folder = tmp_path / name
        folder.mkdir()
        for file in (zoo / name).glob("*.json"):
            (folder / file.name).write_text(file.read_text())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
        kept = {n: tensors.read(n).contiguous() for n in tensors.tensors if n != "lm_head.weight"}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        sources[name] = str(folder)
    model = engine(**sources)
    for i, name in enumerate(("linear", "ties")):
        check(model, example(name), sources, tmp_path / f"out{i}")
    model.close()


def test_after_a_merge_that_fails_half_way_the_engine_is_a_new_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine()
    expected = model.load(linear(0.6)), model.lm(4).loglikelihood(REQUESTS)
    assert isinstance(model, VllmModel)
    with pytest.raises(CandidateError) as caught:
        model.load(
            parse_recipe(
                {
                    **linear(0.6).document(),
                    "models": [
                        {
                            "model": "add",
                            "parameters": {"weight": [{"filter": "mlp", "value": 1e300}, {"value": 0.6}]},
                        },
                        {"model": "sort", "parameters": {"weight": 0.4}},
                    ],
                    "parameters": {"normalize": False},
                }
            )
        )
    assert caught.value.kind is FailureKind.NON_FINITE_WEIGHTS
    with pytest.raises(RuntimeError, match="nothing has been loaded"):
        model.lm(4)
    assert (model.load(linear(0.6)), model.lm(4).loglikelihood(REQUESTS)) == expected


# --- an engine in a process of its own ---------------------------------------------------------------------


@pytest.fixture
def remote(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmModel]:
    """A model whose engine is another process."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    sources = {name: str(zoo / name) for name in ("base", "add", "sort")}
    settings = ModelSettings(tuple(sources.items()), Path(), "cpu", "float32", 1, ENGINE_ARGS)
    model = resident_model("vllm", settings)
    assert isinstance(model, VllmModel)
    yield model
    model.close()


def children() -> list[int]:
    import psutil

    return [
        p.pid
        for p in psutil.Process().children(recursive=True)
        if "VLLM" in " ".join(p.cmdline()) or p.name()
    ]


def test_an_engine_that_dies_in_mid_update_is_replaced_and_nothing_else_changes(
    remote: VllmModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = remote.load(linear(0.6)), remote.lm(4).loglikelihood(REQUESTS)
    victims = children()
    assert victims
    start = VllmEngine.start_update

    def start_and_die(self: VllmEngine) -> None:
        start(self)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        victims.clear()

    monkeypatch.setattr(VllmEngine, "start_update", start_and_die)
    other = remote.load(linear(0.2)), remote.lm(4).loglikelihood(REQUESTS)
    assert not victims
    assert (remote.load(linear(0.6)), remote.lm(4).loglikelihood(REQUESTS)) == first
    assert other != first


def test_an_engine_that_dies_while_it_is_asked_is_replaced_and_the_answers_are_the_same(
    remote: VllmModel,
) -> None:
    remote.load(linear(0.6))
    expected = remote.lm(4).loglikelihood(REQUESTS)
    for victim in children():
        os.kill(victim, signal.SIGKILL)
    assert remote.lm(4).loglikelihood(REQUESTS) == expected


def test_a_candidate_that_kills_two_engines_has_failed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> str:
        raise EngineFailedError("while merging: gone")

    model = engine()
    expected = model.load(linear(0.6))
    with monkeypatch.context() as patch:
        patch.setattr(VllmEngine, "load", die)
        with pytest.raises(CandidateError, match="failed twice, while merging: gone") as caught:
            model.load(linear(0.3))
    assert caught.value.kind is FailureKind.WORKER_DIED
    assert model.load(linear(0.6)) == expected


# --- the canary --------------------------------------------------------------------------------------------


def test_an_engine_that_says_something_else_than_transformers_is_not_used(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine()
    model.close()
    ask = VllmEngine.ask

    def off(self: VllmEngine, requests: list[Request], *more: Any) -> Any:
        answers = ask(self, requests, *more)
        return [type(a)(a.tokens, [p - 0.5 for p in a.logprobs], a.greedy) for a in answers]

    with monkeypatch.context() as patch:
        patch.setattr(VllmEngine, "ask", off)
        with pytest.raises(
            UserError, match=r"workers.engine: vLLM and transformers disagree .* differ by 0\.5"
        ):
            model.load(linear(0.6))
    model.load(linear(0.6))


def test_the_canary_is_asked_at_each_start_and_only_then(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    check_ = vllm_canary.Canary.check
    monkeypatch.setattr(
        vllm_canary.Canary, "check", lambda self, *a: (checked.append("once"), check_(self, *a))
    )
    model = engine()
    model.close()
    for weight in (0.6, 0.3, 0.6):
        model.load(linear(weight))
    assert checked == ["once"]
    deeper = [{"sources": [{"model": m, "layer_range": r}]} for m, r in (("add", [0, 2]), ("sort", [1, 3]))]
    model.load(parse_recipe({"merge_method": "passthrough", "slices": deeper}))
    assert checked == ["once"] * 2
    model.load(passthrough("add"))
    assert checked == ["once"] * 3
