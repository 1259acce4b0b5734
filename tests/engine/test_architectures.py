"""Any architecture that transformers loads: the same weights on disk, loaded again, and in memory."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from architectures import Case
from safetensors.torch import load_file, save_file
from support import ROOT
from torch import Tensor, nn

from evomerge.backends.transformers_model import TransformersModel
from evomerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from evomerge.engine.configuration import layer_count
from evomerge.engine.export import merge_to_disk
from evomerge.engine.layers import find_stacks
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError, RecipeError
from evomerge.recipe import Recipe, parse_recipe

DECODERS = architectures.decoders()
CASES = [*DECODERS, *architectures.others()]
STACKED = [case for case in CASES if case.stack is not None]


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


pytestmark = pytest.mark.filterwarnings("ignore")  # tiny models make libraries say much that means nothing


@pytest.fixture(autouse=True)
def _silent_on_one_thread() -> Iterator[None]:
    from transformers.utils import logging

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    logging.set_verbosity_warning()
    torch.set_num_threads(threads)


def linear(first: float = 1, second: float = 1, **extra: Any) -> Recipe:
    models = [{"model": n, "parameters": {"weight": w}} for n, w in (("a", first), ("b", second))]
    return parse_recipe({"merge_method": "linear", "models": models, **extra})


def stack(ranges: tuple[tuple[int, int], ...]) -> Recipe:
    sources = [{"model": "ab"[i % 2], "layer_range": list(layers)} for i, layers in enumerate(ranges)]
    return parse_recipe({"merge_method": "passthrough", "slices": [{"sources": [s]} for s in sources]})


Made = Callable[[Case], tuple[dict[str, Checkpoint], list[dict[str, Tensor]]]]


def two_models(case: Case, folder: Path) -> tuple[dict[str, Checkpoint], list[dict[str, Tensor]]]:
    """Two models on disk, and their weights by the names of the modules."""
    model = architectures.build(case)
    weights = []
    for seed, name in enumerate("ab"):
        architectures.add_noise(model, seed)
        model.save_pretrained(folder / name)
        weights.append({n: t.clone() for n, t in model.state_dict().items()})
    return open_sources({n: str(folder / n) for n in "ab"}), weights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two models of a case, made once for all tests that only read them."""
    return functools.cache(lambda case: two_models(case, tmp_path_factory.mktemp("models")))


def load(case: Case, folder: Path) -> Any:
    """The folder as transformers loads it, with all its weights and nothing left over."""
    import transformers

    auto = getattr(transformers, case.auto)
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    # Kernels give other last bits on memory of another alignment, and some models compute gradients' way.
    model.requires_grad_(requires_grad=False)
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return model


@torch.no_grad()
def output(model: nn.Module, case: Case, **extra: Any) -> Tensor:
    out = model(**architectures.inputs(case), **extra)
    logits = getattr(out, "logits", None)
    found: Tensor = logits if logits is not None else next(t for t in out.values() if torch.is_tensor(t))
    assert torch.isfinite(found).all()
    return found


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_linear_merge_is_the_average_on_disk_and_in_memory(case: Case, made: Made, tmp_path: Path) -> None:
    checkpoints, weights = made(case)
    written = merge_to_disk(linear(), checkpoints, tmp_path / "out")
    loaded = load(case, tmp_path / "out")
    for name, tensor in loaded.state_dict().items():
        first, second = (w[name] for w in weights)
        expected = 0.5 * first + 0.5 * second if tensor.is_floating_point() else first
        assert torch.equal(tensor, expected), name

    live = TransformersModel(checkpoints)
    live.load(linear(1, 3))  # what an earlier candidate left must not stay
    assert live.load(linear()) == written.fingerprint
    assert_same_weights(live.model, loaded)
    assert torch.equal(output(live.model, case), output(loaded, case))
    live.close()


@pytest.mark.parametrize("case", [c for c in STACKED if c.refused is None], ids=lambda c: c.name)
def test_a_stack_of_layers_loads_and_runs_with_and_without_cache(
    case: Case, made: Made, tmp_path: Path
) -> None:
    assert case.stack is not None
    checkpoints, _ = made(case)
    written = merge_to_disk(stack(case.stack), checkpoints, tmp_path / "out")
    out = open_checkpoint(tmp_path / "out")
    stacks = find_stacks(out.tensors, out.config)
    origins = [("ab"[i % 2], layer) for i, layers in enumerate(case.stack) for layer in range(*layers)]
    assert stacks.depth == layer_count(out.config) == len(origins) == 4
    for place in filter(None, (stacks.place(name) for name in out.tensors)):
        if place.prefix in stacks.sliced:
            model, layer = origins[place.index]
            assert torch.equal(
                out.read(place.name), checkpoints[model].read(dataclasses.replace(place, index=layer).name)
            ), place

    loaded = load(case, tmp_path / "out")
    live = TransformersModel(checkpoints)
    assert live.load(stack(case.stack)) == written.fingerprint
    assert_same_weights(live.model, loaded)
    cached = output(loaded, case)
    assert torch.equal(output(live.model, case), cached)
    if case.kind in ("decoder", "vision-language"):
        for use_cache in (True, False):
            assert torch.allclose(output(loaded, case, use_cache=use_cache), cached, atol=1e-4)
    live.close()


@pytest.mark.parametrize("case", [c for c in STACKED if c.refused is not None], ids=lambda c: c.name)
def test_a_stack_that_a_configuration_cannot_say_is_refused(case: Case, made: Made, tmp_path: Path) -> None:
    assert case.stack is not None
    checkpoints, _ = made(case)
    with pytest.raises(RecipeError, match=case.refused):
        merge_to_disk(stack(case.stack), checkpoints, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError, match=case.refused):  # one candidate fails, the search goes on
        TransformersModel(checkpoints).load(stack(case.stack))


def test_layers_of_kinds_in_another_order_are_refused(made: Made, tmp_path: Path) -> None:
    checkpoints, _ = made(case_of("jamba"))
    with pytest.raises(
        RecipeError, match=r"slices: layer 2 .*another kind than layer 1 .*JambaAttention.*own order"
    ):
        merge_to_disk(stack(((0, 2), (1, 3))), checkpoints, tmp_path / "out")


def test_an_earlier_depth_comes_back(made: Made) -> None:
    checkpoints, _ = made(case_of("qwen3_moe"))
    live = TransformersModel(checkpoints)
    flat = live.load(linear())
    assert live.load(stack(((0, 2), (1, 3)))) != flat
    assert live.load(linear()) == flat


@pytest.mark.parametrize("name", ["mixtral", "t5-Seq2SeqLM", "deepseek_v3", "step3p7-ImageTextToText"])
def test_memory_holds_what_loads_from_disk_in_bfloat16(name: str, made: Made, tmp_path: Path) -> None:
    """Experts in parts, weights that stay in float32, names and layouts that change on loading."""
    checkpoints, _ = made(case_of(name))
    merge_to_disk(linear(dtype="bfloat16"), checkpoints, tmp_path / "out")
    live = TransformersModel(checkpoints)
    live.load(linear(3, 1, dtype="bfloat16"))
    live.load(linear(dtype="bfloat16"))
    assert_same_weights(live.model, load(case_of(name), tmp_path / "out"))


def test_a_row_that_loading_sets_to_zero_is_zero_in_memory_too(tmp_path: Path) -> None:
    case = dataclasses.replace(case_of("youtu"), settings={"num_key_value_heads": 4, "pad_token_id": 5})
    checkpoints, _ = two_models(case, tmp_path)
    assert checkpoints["a"].read("model.embed_tokens.weight")[5].abs().max() > 0
    merge_to_disk(linear(), checkpoints, tmp_path / "out")
    live = TransformersModel(checkpoints)
    live.load(linear(1, 3))
    live.load(linear())
    assert_same_weights(live.model, load(case, tmp_path / "out"))


def test_without_the_name_of_a_class_it_is_the_causal_language_model(tmp_path: Path) -> None:
    two_models(case_of("llama"), tmp_path)
    for model in "ab":
        config = tmp_path / model / "config.json"
        settings = json.loads(config.read_text())
        del settings["architectures"]
        config.write_text(json.dumps(settings))
    live = TransformersModel(open_sources({n: str(tmp_path / n) for n in "ab"}))
    live.load(linear())
    assert type(live.model).__name__ == "LlamaForCausalLM"


def test_experts_are_written_in_place(made: Made) -> None:
    """The model keeps its memory from one candidate to the next: nothing is loaded again."""
    checkpoints, _ = made(case_of("qwen3_moe"))
    assert any(".experts.0." in name for name in checkpoints["a"].tensors)
    live = TransformersModel(checkpoints)
    live.load(linear())
    experts = next(t for n, t in live.model.state_dict().items() if n.endswith("gate_up_proj"))
    before = experts.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(live.model), "from_pretrained", None)
        live.load(linear(1, 5))
    assert not torch.equal(experts, before)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("gpt2", "transformer.", ""),
        ("llama", "model.", ""),
        ("bert-MaskedLM", "LayerNorm.weight", "LayerNorm.gamma"),
    ],
)
def test_files_with_older_names_load_in_memory_too(name: str, old: str, new: str, tmp_path: Path) -> None:
    case = case_of(name)
    two_models(case, tmp_path)
    for model in "ab":
        file = tmp_path / model / "model.safetensors"
        save_file({n.replace(old, new, 1): t for n, t in load_file(file).items()}, file, {"format": "pt"})
    checkpoints = open_sources({n: str(tmp_path / n) for n in "ab"})
    live = TransformersModel(checkpoints)
    written = merge_to_disk(linear(), checkpoints, tmp_path / "out")
    assert live.load(linear()) == written.fingerprint
    assert_same_weights(live.model, load(case, tmp_path / "out"))


def test_tensors_that_a_model_has_no_use_for_are_merged_but_take_no_part(tmp_path: Path) -> None:
    two_models(case_of("llama"), tmp_path)
    for model in "ab":
        file = tmp_path / model / "model.safetensors"
        save_file(load_file(file) | {"mtp.proj.weight": torch.ones(3, 4)}, file, {"format": "pt"})
    checkpoints = open_sources({n: str(tmp_path / n) for n in "ab"})
    written = merge_to_disk(linear(), checkpoints, tmp_path / "out")
    assert "mtp.proj.weight" in load_file(tmp_path / "out" / "model.safetensors")
    assert TransformersModel(checkpoints).load(linear()) == written.fingerprint
    assert TransformersModel(checkpoints).load(stack(((0, 2), (1, 3))))


def test_a_checkpoint_that_lacks_weights_is_refused_in_memory(tmp_path: Path) -> None:
    two_models(case_of("llama"), tmp_path)
    for model in "ab":
        file = tmp_path / model / "model.safetensors"
        save_file({n: t for n, t in load_file(file).items() if "norm" not in n}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"a: lacks weights of LlamaForCausalLM: model\.layers\.0\."):
        TransformersModel(open_sources({n: str(tmp_path / n) for n in "ab"})).load(linear())


@pytest.mark.parametrize("tied", [True, False])
def test_output_embeddings_that_only_one_model_stores(tied: bool, tmp_path: Path) -> None:
    """Tied everywhere, they need not be stored; untied in one model, the result is untied."""
    case = dataclasses.replace(case_of("qwen2"), settings={"tie_word_embeddings": True})
    two_models(case, tmp_path)
    file = tmp_path / "a" / "model.safetensors"
    tensors = load_file(file)
    save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"}
    )
    config = tmp_path / "a" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": tied}))
    checkpoints = open_sources({n: str(tmp_path / n) for n in "ab"})
    merge_to_disk(linear(), checkpoints, tmp_path / "out")
    loaded = load(case, tmp_path / "out")
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    assert torch.equal(loaded.lm_head.weight, loaded.get_input_embeddings().weight)  # equal in both models


def test_a_missing_tensor_is_missing_even_where_embeddings_are_tied(tmp_path: Path) -> None:
    case = dataclasses.replace(case_of("qwen2"), settings={"tie_word_embeddings": True})
    two_models(case, tmp_path)
    file = tmp_path / "b" / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if n != "model.norm.weight"}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight in b"):
        merge_to_disk(linear(), open_sources({n: str(tmp_path / n) for n in "ab"}), tmp_path / "out")


def test_whole_numbers_and_scalars_are_copied(made: Made, tmp_path: Path) -> None:
    checkpoints, _ = made(case_of("resnet-ImageClassification"))
    kinds = {(i.shape, i.dtype) for i in checkpoints["a"].tensors.values()}
    assert ((), torch.int64) in kinds
    merge_to_disk(linear(), checkpoints, tmp_path / "out")
    out = open_checkpoint(tmp_path / "out")
    for name, info in checkpoints["a"].tensors.items():
        assert out.tensors[name] == info
        if not info.dtype.is_floating_point:
            assert torch.equal(out.read(name), checkpoints["a"].read(name))


def test_quantized_models_are_refused(tmp_path: Path) -> None:
    two_models(case_of("llama"), tmp_path)
    config = tmp_path / "b" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "gptq"}})
    )
    with pytest.raises(CheckpointError, match=r"b: is quantized \(gptq\)"):
        merge_to_disk(linear(), open_sources({n: str(tmp_path / n) for n in "ab"}), tmp_path / "out")


def test_a_stack_of_a_model_that_transformers_does_not_know_is_written_with_a_warning(tmp_path: Path) -> None:
    two_models(case_of("llama"), tmp_path)
    for model in "ab":
        config = tmp_path / model / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "own"}))
    checkpoints = open_sources({n: str(tmp_path / n) for n in "ab"})
    result = merge_to_disk(stack(((0, 2), (1, 3))), checkpoints, tmp_path / "out")
    assert any("whether transformers can load" in warning for warning in result.warnings)


def test_the_documentation_lists_what_is_tested() -> None:
    """``python tests/engine/architectures.py`` prints the table."""
    assert architectures.table() in (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
