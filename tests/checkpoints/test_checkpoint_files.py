"""Model folders: what is read, what is refused, what is written."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import MakeModel
from transformers import AutoModelForCausalLM

from evomerge.checkpoints.checkpoint import TensorInfo, open_checkpoint
from evomerge.checkpoints.files import identity
from evomerge.checkpoints.manifest import MANIFEST
from evomerge.checkpoints.references import Reference, locate, parse_reference
from evomerge.checkpoints.writer import CheckpointWriter
from evomerge.errors import CheckpointError, OutputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/model", Reference("org/model")),
        ("org/model@main", Reference("org/model", "main")),
        ("org/model+org/lora", Reference("org/model", None, "org/lora")),
        ("org/model@v1+org/lora@v2", Reference("org/model", "v1", "org/lora", "v2")),
    ],
)
def test_references_are_parsed_and_written_back(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text


def test_a_folder_is_taken_whole_whatever_its_name_contains(tmp_path: Path) -> None:
    folder = tmp_path / "a+b@c"
    folder.mkdir()
    assert parse_reference(str(folder)) == Reference(str(folder))


@pytest.mark.parametrize("text", ["", "  ", "a+b+c", "+a", "a+"])
def test_a_reference_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        parse_reference(text)


def test_folders_are_searched_in_order_and_near_names_are_told(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("math", 1)
    assert locate("math", folders=(tmp_path / "nowhere", tmp_path)) == model.resolve()
    with pytest.raises(CheckpointError, match="Did you mean 'math'"):
        locate(str(tmp_path / "mathh"))


def test_an_unknown_hub_model_offline_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="neither such a folder nor such a model"):
        locate("some-org/some-model")


def test_headers_are_read_and_weights_are_mapped(make_model: MakeModel) -> None:
    folder = make_model("m", 1)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors["model.norm.weight"] == TensorInfo((32,), torch.float32)
    stored = load_file(folder / "model.safetensors")
    for name in checkpoint.tensors:
        assert torch.equal(checkpoint.read(name), stored[name])


def sharded(folder: Path, name: str, file: str) -> None:
    """Turns the folder's one file into a shard, with an index that says ``name`` is in ``file``."""
    shard = "model-00001-of-00001.safetensors"
    weight_map = dict.fromkeys(load_file(folder / "model.safetensors"), shard) | {name: file}
    (folder / "model.safetensors").rename(folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("file", "message"),
    [("gone.safetensors", "which is missing"), ("../other/x.safetensors", "outside the model folder")],
)
def test_an_index_may_name_only_files_that_lie_beside_it(
    file: str, message: str, make_model: MakeModel
) -> None:
    folder = make_model("m", 1)
    sharded(folder, "lm_head.weight", file)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    make_model: MakeModel, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = make_model("m", 1)
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: holds more than tensors"):
        open_checkpoint(folder)
    assert not (tmp_path / "owned").exists()


def test_a_plain_bin_is_read(make_model: MakeModel) -> None:
    folder = make_model("m", 1)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(open_checkpoint(folder).read("lm_head.weight"), tensors["lm_head.weight"])


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_a_config_that_is_no_json_mapping_is_named(text: str, make_model: MakeModel) -> None:
    folder = make_model("m", 1)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(folder)


def test_identity_follows_the_weights_not_the_place(make_model: MakeModel, tmp_path: Path) -> None:
    one, same, other = make_model("one", 1), make_model("same", 1), make_model("other", 2)
    assert identity(one) == identity(same)
    assert identity(one) != identity(other)


INFOS = {
    "b": TensorInfo((3, 5), torch.bfloat16),
    "a": TensorInfo((7,), torch.float32),
    "i": TensorInfo((2, 2), torch.int64),
    "empty": TensorInfo((0, 4), torch.float32),
    "scalar": TensorInfo((), torch.float32),
}


def fill(writer: CheckpointWriter) -> dict[str, torch.Tensor]:
    values = {}
    for k, (name, info) in enumerate(INFOS.items()):
        values[name] = torch.arange(math.prod(info.shape)).view(info.shape).to(info.dtype) + k
        writer.tensor(name).put(0, values[name].reshape(-1, info.shape[-1] if info.shape else 1))
    return values


@pytest.mark.parametrize("shard_bytes", [1, 40, 10**9])
def test_what_is_written_is_read_back_by_the_safetensors_library(shard_bytes: int, tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=shard_bytes) as writer:
        values = fill(writer)
        writer.commit()
    found: dict[str, torch.Tensor] = {}
    for file in sorted((tmp_path / "out").glob("*.safetensors")):
        found |= load_file(file)
    assert set(found) == set(values)
    assert all(torch.equal(found[n], v) and found[n].dtype == v.dtype for n, v in values.items())


def test_what_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=100) as writer:
        fill(writer)
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_an_earlier_merge_as_a_whole(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=40) as writer:
        fill(writer)
        writer.write_text("config.json", "{}")
        writer.commit()
    before = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"model.safetensors.index.json", "config.json", MANIFEST} < before
    with pytest.raises(OutputError, match="--overwrite"):
        CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=100)
    with CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=10**9, overwrite=True) as writer:
        fill(writer)
        assert {p.name for p in (tmp_path / "out").iterdir()} == before
        writer.commit()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.safetensors", MANIFEST}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_noticed_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="not enough disk space"):
        CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=100)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_midway_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    writer = CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=10**9)
    monkeypatch.setattr(os, "pwrite", refuse)
    with writer, pytest.raises(OutputError, match="Input/output error"):
        writer.tensor("a").put(0, torch.zeros(1, 7))
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_takes_in_pieces_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, bytes(data)[:5], offset))
    with CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=10**9) as writer:
        values = fill(writer)
        writer.commit()
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[n], v) for n, v in values.items())


def test_what_a_killed_run_left_is_removed_and_a_folder_of_its_name_that_is_not_its_own_stays(
    tmp_path: Path,
) -> None:
    killed = (
        "import os, sys; from pathlib import Path; import torch; "
        "from evomerge.checkpoints.checkpoint import TensorInfo; "
        "from evomerge.checkpoints.writer import CheckpointWriter; "
        "CheckpointWriter(Path(sys.argv[1]), {'a': TensorInfo((7,), torch.float32)}, shard_bytes=99); "
        "os._exit(9)"
    )
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "precious").write_text("mine")
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "out")], check=False)
    assert (tmp_path / ".out.partial-2" / "model.safetensors").exists()
    with CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=10**9) as writer:
        fill(writer)
        writer.commit()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.partial", "out"]
    assert (tmp_path / ".out.partial" / "precious").read_text() == "mine"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_configuration_is_read_in_the_encodings_of_editors(encoding: str, make_model: MakeModel) -> None:
    config = make_model("a", 1) / "config.json"
    plain = json.loads(config.read_text())
    config.write_text(json.dumps(plain), encoding=encoding)
    assert open_checkpoint(config.parent).config == plain


@pytest.mark.parametrize("shards", ["there", "gone"])
def test_one_file_of_weights_is_read_before_an_index_as_transformers_does(
    shards: str, make_model: MakeModel
) -> None:
    folder = make_model("a", 1)
    old = make_model("old", 2)
    names = load_file(folder / "model.safetensors")
    shard = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)})
    )
    if shards == "there":
        (old / "model.safetensors").rename(folder / shard)
    checkpoint = open_checkpoint(folder)
    assert all(torch.equal(checkpoint.read(name), weight) for name, weight in names.items())
    assert bool(checkpoint.warnings) == (shards == "there")
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in names.items())


def test_weights_that_the_configuration_names_are_read(make_model: MakeModel) -> None:
    folder, other = make_model("a", 1), make_model("b", 2)
    (other / "model.safetensors").rename(folder / "other.safetensors")
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"transformers_weights": "other.safetensors"}))
    checkpoint = open_checkpoint(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(checkpoint.read(name), loaded[name]) for name in checkpoint.tensors)
    assert "transformers_weights" not in checkpoint.config


def test_all_missing_files_of_an_index_are_counted(make_model: MakeModel) -> None:
    folder = make_model("a", 1)
    (folder / "model.safetensors").unlink()
    weight_map = {f"w{i}": f"model-{i}.safetensors" for i in range(6)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="names 6 files that are missing"):
        open_checkpoint(folder)


def test_a_pointer_of_git_lfs_is_called_so(make_model: MakeModel) -> None:
    file = make_model("a", 1) / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_checkpoint(file.parent)
