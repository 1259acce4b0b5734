"""Untrusted model folders and references: one message, no file outside, nothing runs or hangs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import MakeModel

from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.checkpoints.files import read_json
from evomerge.checkpoints.lora import adapt
from evomerge.checkpoints.references import locate, parse_reference
from evomerge.errors import CheckpointError, UserError


@pytest.mark.parametrize(
    "text",
    ["@main", "+lora", "m@", "m@../../x", "m@/etc", "m@a/../b", "m+l@../x", "m@a\nb", "m@-x", "@", "m+@v"],
)
def test_a_reference_with_a_part_missing_or_a_revision_that_is_a_path_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "~nobody-of-this-name/x",
        "a" * 300,
        "a/" * 3000,
        "x\0y",
        "org/../../etc",
        "../" * 50 + "etc/nowhere",
        "/root/x/y",
    ],
)
def test_a_reference_that_no_file_system_takes_is_one_message(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        locate(parse_reference(text).model, folders=(tmp_path,))
    with pytest.raises(UserError):
        parse_reference(text + ".yml").recipe_file((tmp_path,)) or locate(text + ".yml", folders=(tmp_path,))


def test_a_reference_out_of_the_folder_reads_a_model_and_nothing_else(
    make_model: MakeModel, tmp_path: Path
) -> None:
    """A recipe may say ``../base``, as its author has it beside the recipe; what is there must be a model."""
    make_model("base", 1)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "notes.txt").write_text("secret")
    assert locate("../base", folders=(tmp_path / "recipes",)) == tmp_path / "base"
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(locate("../private", folders=(tmp_path / "recipes",)))
    assert "secret" not in str(caught.value)


def index(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    weight_map = {"model.norm.weight": "a.safetensors", "lm_head.weight": name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "name",
    ["../b/a.safetensors", "/etc/passwd", "..", ".", "", "x\0y", "a" * 300, "b/../a.safetensors", "\ud800"],
)
def test_a_shard_lies_beside_its_index(name: str, make_model: MakeModel) -> None:
    folder, other = make_model("m", 1), make_model("b", 2)
    (other / "model.safetensors").rename(other / "a.safetensors")
    index(folder, name)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_checkpoint(folder)


def raw(folder: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {**F32, "shape": [2**63]}}, b"1234"),
        ({"a": {**F32, "shape": [2**40, 2**40]}}, b"1234"),
        ({"a": {**F32, "shape": [-1]}}, b"1234"),
        ({"a": {**F32, "data_offsets": [0, 2**60]}}, b"1234"),
        ({"a": {**F32, "data_offsets": [4, 0]}}, b"1234"),
        ({"a": F32, "b": F32}, b"1234"),
        ({"a": F32, "b": {**F32, "data_offsets": [2, 6]}}, b"123456"),
        ({"a": {**F32, "dtype": "C64"}}, b"1234"),
        ({"a": {**F32, "dtype": "F4", "shape": [8]}}, b"1234"),
        ({"a": F32}, b"12345678"),
        ([], b""),
        (b"\xff\xfe", b""),
    ],
)
def test_a_header_that_lies_is_refused(header: Any, data: bytes, make_model: MakeModel) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(raw(make_model("m", 1), header, data))


@pytest.mark.parametrize("length", [0, 2**31, 2**63, 2**64 - 1])
def test_a_header_said_to_be_huge_is_refused_at_once(length: int, make_model: MakeModel) -> None:
    folder = make_model("m", 1)
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(folder)


def test_a_shape_beyond_whole_numbers_of_a_tensor_without_elements(make_model: MakeModel) -> None:
    shape = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}
    checkpoint = open_checkpoint(raw(make_model("m", 1), {"a": shape}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read("a")


def test_pipes_are_not_waited_for(make_model: MakeModel) -> None:
    folder = make_model("m", 1)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "x.safetensors")
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json: is not a file"):
        open_checkpoint(folder)


@pytest.mark.parametrize("depth", [101, 500, 100_000])
def test_a_configuration_nested_without_end_is_refused(depth: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def test_no_pickle_of_an_index_is_run(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("m", 1)
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil(tmp_path / "owned")}, folder / "shard.bin")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"model.norm.weight": "shard.bin"}}')
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        open_checkpoint(folder)
    assert not (tmp_path / "owned").exists()


def test_an_adapter_that_is_pickled_runs_no_code(make_model: MakeModel, tmp_path: Path) -> None:
    base = open_checkpoint(make_model("m", 1))
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    torch.save({"x": Evil(tmp_path / "owned")}, folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="reading it would run code"):
        adapt(base, folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": "x"}, "not a valid value"),
        ({"r": {}}, "not a valid value"),
        ({"r": 10**400}, "not a valid value"),
        ({"r": 0}, "must be above 0"),
        ({"r": -2, "use_rslora": True}, "must be above 0"),
        ({"lora_alpha": None}, "not a valid value"),
        ({"lora_alpha": float("nan")}, "not a valid value"),
        ({"rank_pattern": [1]}, "not a mapping"),
        ({"rank_pattern": {"(": 1}}, "not a valid regular expression"),
        ({"rank_pattern": {"(a+)+$": 1}}, "too complicated"),
        ({"alpha_pattern": {"([a-z_.0-9]+)*!": 1}}, "too complicated"),
        ({"alpha_pattern": {".*.*.*.*.*!": 1}}, "too complicated"),
    ],
)
def test_the_settings_of_an_adapter_are_looked_at(
    settings: dict[str, Any], message: str, make_model: MakeModel, tmp_path: Path
) -> None:
    folder = make_model("m", 1)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    rows, columns = load_file(folder / "model.safetensors")["lm_head.weight"].shape
    factors = {"A": torch.ones(2, columns), "B": torch.ones(rows, 2)}
    save_file(
        {f"base_model.model.lm_head.lora_{k}.weight": v for k, v in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **settings}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    began = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        adapt(open_checkpoint(folder), adapter)
    assert time.process_time() - began < 5
