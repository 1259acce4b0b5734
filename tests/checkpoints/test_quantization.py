"""Quantized weights are recognised by what their files hold, and other weights are not taken for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import MakeModel
from torch import Tensor

from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.checkpoints.quantization import quantization_of
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError

P = "model.layers.0.self_attn.q_proj"
F8 = torch.zeros(32, 32, dtype=torch.float8_e4m3fn)
CODES = torch.zeros(32, 4, dtype=torch.int32)
INT8 = torch.ones(32, 32, dtype=torch.int8)
BYTES = torch.zeros(512, 1, dtype=torch.uint8)
ONE = torch.ones(1)
ROWS = torch.ones(32)

FORMATS: dict[str, tuple[str, dict[str, Tensor], dict[str, Any]]] = {
    "gptq": (
        "gptq 4 bit",
        {"qweight": CODES, "qzeros": CODES, "scales": ROWS, "g_idx": torch.zeros(32, dtype=torch.int32)},
        {"quantize_config.json": {"bits": 4, "group_size": 128}},
    ),
    "gptq without a side file": (
        "gptq",
        {"qweight": CODES, "qzeros": CODES, "scales": ROWS, "g_idx": torch.zeros(32, dtype=torch.int32)},
        {},
    ),
    "awq": (
        "awq 4 bit",
        {"qweight": CODES, "qzeros": CODES, "scales": ROWS},
        {"quant_config.json": {"w_bit": 4, "q_group_size": 128, "version": "GEMM"}},
    ),
    "awq without a side file": ("awq", {"qweight": CODES, "qzeros": CODES, "scales": ROWS}, {}),
    "bitsandbytes 8 bit": (
        "bitsandbytes 8 bit",
        {"weight": INT8, "SCB": ROWS, "weight_format": torch.tensor(0, dtype=torch.uint8)},
        {},
    ),
    "bitsandbytes 8 bit, older": ("bitsandbytes 8 bit", {"weight": INT8, "SCB": ROWS}, {}),
    "bitsandbytes 4 bit": (
        "bitsandbytes 4 bit",
        {
            "weight": BYTES,
            "weight.absmax": torch.zeros(16, dtype=torch.uint8),
            "weight.quant_map": torch.ones(16),
            "weight.nested_absmax": ONE,
            "weight.nested_quant_map": torch.ones(256),
            "weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
        },
        {},
    ),
    "fp8 by tensor": ("fp8", {"weight": F8, "weight_scale": ONE}, {}),
    "fp8 by block": ("fp8 with block scales", {"weight": F8, "weight_scale_inv": torch.ones(1, 1)}, {}),
    "fp8 with scales of inputs": ("fp8", {"weight": F8, "input_scale": ONE}, {}),
    "fp8 of image models": ("fp8", {"weight": F8, "scale_weight": ONE}, {}),
    "fp8 with scales of fp8": ("fp8", {"weight": F8, "scale": ONE.to(torch.float8_e8m0fnu)}, {}),
    "modelopt": (
        "modelopt FP8",
        {"weight": F8, "weight_scale": ONE, "input_scale": ONE},
        {"hf_quant_config.json": {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}},
    ),
    "nvfp4": (
        "NVFP4",
        {"weight": INT8.view(torch.uint8), "weight_scale": F8[:, :2], "weight_scale_2": ONE},
        {"hf_quant_config.json": {"quantization": {"quant_algo": "NVFP4", "group_size": 16}}},
    ),
    "compressed-tensors": (
        "compressed-tensors",
        {"weight_packed": CODES, "weight_scale": ROWS, "weight_shape": torch.tensor([32, 32])},
        {},
    ),
    "compressed-tensors, naive": ("int8", {"weight": INT8, "weight_scale": ROWS}, {}),
    "mxfp4": ("mxfp4", {"down_proj_blocks": BYTES, "down_proj_scales": BYTES}, {}),
    "hqq": ("hqq", {"W_q": BYTES, "scale": ROWS, "zero": ROWS}, {}),
    "eetq": ("eetq", {"weight": INT8, "weight_scales": ROWS}, {}),
    "aqlm": ("aqlm", {"codes": INT8, "codebooks": torch.ones(1, 256, 1, 8), "scales": ROWS}, {}),
    "torchao": ("torchao", {"_weight_qdata": INT8, "_weight_scale": ROWS}, {}),
    "quanto": ("quanto", {"weight._data": INT8, "weight._scale": ROWS, "input_scale": ONE}, {}),
    "mlx": ("mlx", {"weight": CODES.to(torch.uint32), "scales": ROWS, "biases": ROWS}, {}),
    "bitnet": ("uint8 with scales", {"weight": BYTES, "weight_scale": ONE}, {}),
    "of no known format": ("codes of int8", {"weight": INT8}, {}),
}


def quantized(folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, Any] = {}) -> Path:
    """The model in ``folder`` with other tensors in place of a weight, and more files."""
    weights = load_file(folder / "model.safetensors")
    del weights[f"{P}.weight"]
    weights |= {
        f"{P}.{name}": tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    save_file(weights, folder / "model.safetensors")
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document))
    return folder


def configured(folder: Path, **fields: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


@pytest.mark.parametrize("case", FORMATS)
def test_quantized_tensors_are_recognised_without_a_word_in_the_configuration(
    case: str, make_model: MakeModel
) -> None:
    method, tensors, files = FORMATS[case]
    found = quantization_of(open_checkpoint(quantized(make_model("a", 1), tensors, files)))
    assert found is not None
    assert method in found.method
    assert P in found.sign


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("awq", {"text_config": {"quantization_config": {"quant_method": "awq"}}}),
        ("gptq", {"llm": {"inner_config": {"quantization_config": {"quant_method": "gptq"}}}}),
        ("compressed-tensors float-quantized", {"compression_config": {"format": "float-quantized"}}),
        ("mlx 4 bit", {"quantization": {"group_size": 64, "bits": 4}}),
    ],
)
def test_the_configuration_says_it_where_it_may_stand(
    method: str, fields: dict[str, Any], make_model: MakeModel
) -> None:
    found = quantization_of(open_checkpoint(configured(make_model("a", 1), **fields)))
    assert found is not None
    assert (found.method, found.sign) == (method, "")


@pytest.mark.parametrize(
    "fields",
    [{}, {"quantization_config": None}, {"quantization_config": {}}, {"quantization": "none of bits"}],
)
def test_plain_weights_are_not_quantized(fields: dict[str, Any], make_model: MakeModel) -> None:
    folder = configured(make_model("a", 1), **fields)
    weights = load_file(folder / "model.safetensors")
    weights[f"{P}.weight"] = F8  # only a cast: there are no scales
    weights |= {
        "model.embeddings.position_ids": torch.arange(64)[None],
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "model.layers.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.int64),
        "model.layers.0.self_attn.k_scale": ONE.clone(),
        "model.layers.0.norm.num_batches_tracked": torch.tensor(3),
        "model.layers.0.layer_scale": ONE,
        "model.layers.0.attn.masked_bias": torch.zeros(8, 8, dtype=torch.uint8),
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": null}}')
    assert quantization_of(open_checkpoint(folder)) is None


def test_all_quantized_models_are_named_at_once_before_an_adapter_does_not_fit(
    make_model: MakeModel, tmp_path: Path
) -> None:
    for name, case in (("a", "gptq"), ("b", "bitsandbytes 4 bit")):
        quantized(make_model(name, 1), *FORMATS[case][1:])
    make_model("c", 2)
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    factors = {"lora_A": torch.ones(4, 32), "lora_B": torch.ones(32, 4)}
    save_file(
        {f"base_model.model.{P}.{name}.weight": t for name, t in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    names = {name: str(tmp_path / name) for name in "ac"} | {"b": f"{tmp_path / 'b'}+{adapter}"}
    with pytest.raises(CheckpointError) as caught:
        open_sources(names)
    assert "a is quantized (gptq 4 bit)" in str(caught.value)
    assert "b is quantized (bitsandbytes 4 bit)" in str(caught.value)
    assert "dequantize" in caught.value.hint


def test_a_stale_marker_over_plain_weights_says_what_to_delete(make_model: MakeModel) -> None:
    folder = configured(make_model("a", 1), quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(CheckpointError, match=r"is quantized \(bitsandbytes\).*delete quantization_config"):
        open_sources({"a": str(folder)})


def test_a_side_file_over_plain_weights_is_worth_a_warning(make_model: MakeModel) -> None:
    folder = make_model("a", 1)
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": 128}')
    (warning,) = open_sources({"a": str(folder)})["a"].warnings
    assert "quantize_config.json" in warning
