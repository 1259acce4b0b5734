"""What a layer-stack changes in a configuration."""

from __future__ import annotations

import copy
import json
from typing import Any

import architectures
import pytest
from architectures import Case

from evomerge.checkpoints.quantization import quantization_in_config
from evomerge.engine.configuration import LayerOrigin, is_tied, layer_count, resize

OTHER = {"layer_types": ["x", "y", "z"], "rank": [7, 8, 9], "dense_layers": [1], "per_layer": {"1": {"d": 5}}}
"""The second model of the stacks below."""


def stacked(config: dict[str, Any], *, has_encoder: bool = False) -> dict[str, Any]:
    """``config``, of three layers, with its layers 0 and 1 before layers 1 and 2 of ``OTHER``."""
    result = copy.deepcopy(config)
    origins = [LayerOrigin(config, 0), LayerOrigin(config, 1), LayerOrigin(OTHER, 1), LayerOrigin(OTHER, 2)]
    resize(result, 3, origins, has_encoder=has_encoder)
    return result


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"num_hidden_layers": 3}, {"num_hidden_layers": 4}),
        ({"n_layer": 3, "n_head": 3}, {"n_layer": 4, "n_head": 3}),
        ({"n_layer": 3, "num_experts": 3}, {"n_layer": 4, "num_experts": 3}),
        ({"n_layer": 3, "layer_types": ["a", "b", "c"]}, {"n_layer": 4, "layer_types": ["a", "b", "y", "z"]}),
        ({"n_layer": 3, "rank": [4, 5, 6]}, {"n_layer": 4, "rank": [4, 5, 8, 9]}),
        ({"n_layer": 3, "dense_layers": [0, 2]}, {"n_layer": 4, "dense_layers": [0, 2]}),
        ({"n_layer": 3, "moe_layers": [0, 1, 2]}, {"n_layer": 4, "moe_layers": [0, 1, 2, 3]}),
        ({"n_layer": 3, "own_layers": [1]}, {"n_layer": 4, "own_layers": [1, 2]}),
        ({"n_layer": 3, "override_pattern": "M-*"}, {"n_layer": 4, "override_pattern": "M--*"}),
        ({"n_layer": 3, "runs": [[["g", "l", "g"], 1]]}, {"n_layer": 4, "runs": [[[k], 1] for k in "gllg"]}),
        ({"n_layer": 3, "per_layer": {"2": {"d": 6}}}, {"n_layer": 4, "per_layer": {"2": {"d": 5}}}),
        ({"n_layer": 3, "moe_layer_end_index": 2}, {"n_layer": 4, "moe_layer_end_index": 3}),
        ({"n_layer": 3, "first_k_dense_replace": 1}, {"n_layer": 4, "first_k_dense_replace": 1}),
        ({"n_layer": 3, "eos_token_id": [1, 2, 3]}, {"n_layer": 4, "eos_token_id": [1, 2, 3]}),
        (
            {"text_config": {"n_layer": 3}, "vision_config": {"n_layer": 3}},
            {"text_config": {"n_layer": 4}, "vision_config": {"n_layer": 3}},
        ),
        ({"text_config": {"model_type": "x"}}, {"text_config": {"model_type": "x", "num_hidden_layers": 4}}),
    ],
)
def test_what_is_said_by_layer_follows_the_layers(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert stacked(before) == after


@pytest.mark.parametrize(
    ("has_encoder", "after"),
    [
        (True, {"num_layers": 3, "num_decoder_layers": 4, "encoder_layers": 3}),
        (False, {"num_layers": 4, "num_decoder_layers": 4, "encoder_layers": 4}),
    ],
)
def test_an_encoder_keeps_its_layers(has_encoder: bool, after: dict[str, Any]) -> None:
    before = {"num_layers": 3, "num_decoder_layers": 3, "encoder_layers": 3}
    assert stacked(before, has_encoder=has_encoder) == after


STACKS = [c for c in (*architectures.decoders(), *architectures.others()) if c.stack and not c.refused]


@pytest.mark.parametrize("case", STACKS, ids=lambda c: c.name)
def test_the_layers_as_they_are_change_nothing(case: Case) -> None:
    config = json.loads(architectures.tiny_config(case.model_type, case.settings).to_json_string())
    depth = layer_count(config) or len(config["layers_block_type"])
    same = copy.deepcopy(config)
    has_encoder = case.kind != "decoder"
    resize(same, depth, [LayerOrigin(config, i) for i in range(depth)], has_encoder=has_encoder)
    for key, value in config.items():  # a count may be new
        # A pattern of runs may be spelled out.
        assert same[key] == value or key == "attention_types", key


def test_nested_text_configurations_are_read() -> None:
    config = {"vision_config": {"num_hidden_layers": 9}, "text_config": {"num_hidden_layers": 5}}
    assert layer_count(config) == 5
    assert layer_count({}) is None
    assert is_tied({"text_config": {"tie_word_embeddings": False}}) is False
    assert is_tied({"text_config": {}}) is None
    assert quantization_in_config({"text_config": {"quantization_config": {"quant_method": "awq"}}}) == "awq"
    assert quantization_in_config({"quantization_config": None}) is None
