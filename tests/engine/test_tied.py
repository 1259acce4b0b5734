"""Embeddings that some inputs tie and others do not: a tied head counts as the embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
import yaml
from spelling_support import Folder, linear, ties
from torch import Tensor

from evomerge.engine.model_names import tied_head
from evomerge.errors import CheckpointError
from evomerge.methods import Base, get_method, methods
from evomerge.recipe import Recipe, load_recipe, parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore")

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
CASES = [*architectures.decoders(), *architectures.others()]


def built(name: str, **settings: Any) -> Any:
    case = next(case for case in CASES if case.name == name)
    model = architectures.build(case)
    for key, value in settings.items():
        setattr(model.config, key, value)
    return type(model)(model.config).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Llamas: base and tied tie their embeddings, doubled stores its own twice, untied has two of them."""
    folder = Folder(tmp_path)
    model = built("llama", tie_word_embeddings=True)
    for seed, name in enumerate(("base", "tied", "other")):
        folder.save(name, model, seed)
    folder.write("doubled", "other", lambda tensors: tensors | {HEAD: tensors[EMBEDDING]})
    folder.write("untied", "other", with_head, tie_word_embeddings=False)
    folder.write("unlike", "other", with_head)
    return folder


def with_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(tensors[EMBEDDING].shape, generator=generator)
    return tensors | {HEAD: tensors[EMBEDDING] + 0.1 * noise}


def made_equal(folder: Folder) -> None:
    """The same models with every head stored, and every configuration saying so."""
    for name in ("base", "tied", "doubled"):
        folder.write(f"{name}_full", name, lambda t: t | {HEAD: t[EMBEDDING]}, tie_word_embeddings=False)
    folder.write("untied_full", "untied", dict)


def recipe(method: str, base: str, *models: str) -> Recipe:
    known = get_method(method)
    weight = {"weight": 0.6} if "weight" in known.parameters else {}
    density = {"density": 0.5} if "density" in known.parameters else {}
    listed = [{"model": m, "parameters": {**weight, **density}} for m in models]
    settings = {"t": 0.4} if "t" in known.parameters else {}
    document: dict[str, Any] = {"merge_method": method, "models": listed, "parameters": settings}
    if known.base is not Base.NONE:
        document["base_model"] = base
    return parse_recipe(document)


def merged(folder: Folder, method: str, models: tuple[str, ...], out: str) -> None:
    known = get_method(method)
    most = known.models[1]
    base, *rest = models
    if known.base is Base.NONE:
        rest = list(models)
    elif most is not None and known.base is not Base.REQUIRED and most == 2:
        rest = [base, *rest]
    folder.merge(recipe(method, base, *(rest if most is None else rest[-most:])), out)


@pytest.mark.parametrize("method", sorted(method.name for method in methods()))
def test_a_tied_head_counts_as_the_embedding_for_every_method(method: str, folder: Folder) -> None:
    made_equal(folder)
    models = ("base", "tied", "untied")
    merged(folder, method, models, "mixed")
    merged(folder, method, tuple(f"{name}_full" for name in models), "equal")
    mixed, equal = folder.tensors("mixed"), folder.tensors("equal")
    if method != "passthrough":
        assert folder.config("mixed")["tie_word_embeddings"] is False
    assert all(torch.equal(mixed[name], equal[name]) for name in mixed)
    assert method == "passthrough" or mixed.keys() == equal.keys()


@pytest.mark.parametrize(
    "pair", [("base", "untied"), ("untied", "base"), ("unlike", "tied"), ("doubled", "untied")]
)
def test_a_result_is_untied_if_an_input_is(pair: tuple[str, str], folder: Folder) -> None:
    result = folder.merge(linear(*pair))
    one, other = (folder.load(name) for name in pair)
    merged = folder.load("out")
    for get in ("get_input_embeddings", "get_output_embeddings"):
        first, second, third = (getattr(m, get)().weight for m in (one, other, merged))
        assert torch.allclose(third, (first + second) / 2, atol=1e-7)
    assert folder.config("out")["tie_word_embeddings"] is False
    assert any("count for both" in warning for warning in result.warnings)


@pytest.mark.parametrize("pair", [("base", "tied"), ("base", "doubled"), ("doubled", "base")])
def test_a_result_is_tied_if_all_inputs_are(pair: tuple[str, str], folder: Folder) -> None:
    folder.merge(linear(*pair))
    assert HEAD not in folder.tensors("out")
    assert folder.config("out")["tie_word_embeddings"] is True


def test_heads_stored_against_the_configuration_are_told(folder: Folder) -> None:
    result = folder.merge(linear("base", "unlike"))
    assert any("unlike: its configuration ties" in warning for warning in result.warnings)
    folder.write("unlike_too", "tied", with_head)
    result = folder.merge(linear("unlike", "unlike_too"), "all")
    assert folder.config("all")["tie_word_embeddings"] is False
    assert HEAD in folder.tensors("all")


def test_second_copies_in_all_inputs_do_not_come_apart_at_random(folder: Folder) -> None:
    for name in ("base", "tied"):
        folder.write(f"{name}_twice", name, lambda tensors: tensors | {HEAD: tensors[EMBEDDING]})
    folder.merge(ties("base_twice", "doubled", "tied_twice", method="dare_linear"))
    model = folder.load("out")
    assert torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)


def test_an_untied_model_without_a_head_is_refused(folder: Folder) -> None:
    folder.set("tied", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head.weight in tied"):
        folder.merge(linear("untied", "tied"))


def test_a_stage_of_tied_models_merges_with_an_untied_one(folder: Folder) -> None:
    documents = [
        {
            **({"name": name} if name else {}),
            "merge_method": "linear",
            "models": [{"model": m, "parameters": {"weight": 1}} for m in models],
        }
        for name, models in (("both", ("base", "tied")), ("", ("both", "untied")))
    ]
    file = folder.path / "recipe.yml"
    file.write_text(yaml.safe_dump_all(documents))
    folder.merge(load_recipe(file))
    base, tied = (folder.tensors(name)[EMBEDDING] for name in ("base", "tied"))
    expected = ((base + tied) / 2 + folder.tensors("untied")[HEAD]) / 2
    assert torch.allclose(folder.tensors("out")[HEAD], expected, atol=1e-6)


ENCODER_DECODERS = {
    "t5-Seq2SeqLM": ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "bart-Seq2SeqLM": (
        "model.shared.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
    ),
}


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize("turned", [False, True])
def test_encoders_and_decoders_share_embeddings_under_any_name(
    family: str, turned: bool, tmp_path: Path
) -> None:
    folder, (shared, *second) = Folder(tmp_path), ENCODER_DECODERS[family]
    model = built(family)
    for seed, name in enumerate("ab"):
        folder.save(name, model, seed)
    folder.write("all", "b", lambda t: t | dict.fromkeys((*second, HEAD), t[shared]))
    folder.write("one", "b", lambda t: {(second[0] if n == shared else n): w for n, w in t.items()})
    folder.write("untied", "b", lambda t: t | {HEAD: t[shared] + 1}, tie_word_embeddings=False)
    folder.merge(linear("a", "b"), "plain")
    expected = folder.load("plain").state_dict()
    for name in ("all", "one"):
        folder.merge(linear(*((name, "a") if turned else ("a", name))), f"with_{name}")
        found = folder.load(f"with_{name}").state_dict()
        assert all(torch.equal(found[n], expected[n]) for n in expected)
    folder.merge(linear(*(("untied", "a") if turned else ("a", "untied"))), "with_untied")
    found = folder.load("with_untied").state_dict()
    assert torch.allclose(found[HEAD], expected[HEAD] + 0.5, atol=1e-6)
    assert all(torch.equal(found[n], expected[n]) for n in (shared, *second))


@pytest.mark.parametrize(
    "family", ["gemma", "qwen2", "gpt2", "gemma3-ImageTextToText", "bert-MaskedLM", "whisper-SpeechSeq2Seq"]
)
def test_other_families_untie_too(family: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    tied, untied = (built(family, tie_word_embeddings=value) for value in (True, False))
    folder.save("tied", tied, 1)
    folder.save("untied", untied, 2)
    for pair in (("tied", "untied"), ("untied", "tied")):
        out = "_".join(pair)
        folder.merge(linear(*pair), out)
        one, other, merged = (folder.load(name).state_dict() for name in (*pair, out))
        assert all(torch.allclose(merged[n], (one[n] + other[n]) / 2, atol=1e-6) for n in merged)


def test_the_head_and_what_it_is_tied_to_have_the_names_of_the_module(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for family, settings in (("llama", {"tie_word_embeddings": True}), ("t5-Seq2SeqLM", {}), ("llama", {})):
        folder.save(f"{family}{len(settings)}", built(family, **settings), 0)
    assert tied_head(folder.config("llama1")) == (HEAD, EMBEDDING, False)
    assert tied_head(folder.config("t5-Seq2SeqLM0")) == (HEAD, "shared.weight", True)
    assert tied_head(folder.config("llama0")) is None
    assert tied_head({"model_type": "nothing_of_transformers"}) is None
