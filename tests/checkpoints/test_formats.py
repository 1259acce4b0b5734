"""A place that is named as a model and is none says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import MakeModel

from evomerge.checkpoints.checkpoint import open_checkpoint
from evomerge.checkpoints.references import locate
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError, UserError


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model-Q4_K_M.gguf", "GGUF"),
        ("onnx/model.onnx", "ONNX"),
        ("tf_model.h5", "TensorFlow"),
        ("adapter_config.json", r"base_model\+adapter"),
        ("consolidated.00.pth", "transformers does not read"),
        ("global_step500/mp_rank_00_model_states.pt", "training checkpoint"),
        ("checkpoint-500/config.json", "checkpoint-500"),
    ],
)
@pytest.mark.parametrize("has_config", [True, False])
def test_a_folder_without_weights_says_what_it_holds(
    file: str, words: str, has_config: bool, make_model: MakeModel
) -> None:
    folder = make_model("a", 1)
    (folder / "model.safetensors").unlink()
    if not has_config:
        (folder / "config.json").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("{}")
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(folder)


def test_a_file_is_no_model_and_its_folder_is_named(make_model: MakeModel, tmp_path: Path) -> None:
    make_model("a", 1)
    with pytest.raises(CheckpointError, match=r"is a file, not a model folder\. Name the folder: a\."):
        locate("a/model.safetensors", folders=(tmp_path,))
    (tmp_path / "a" / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="GGUF"):
        locate(str(tmp_path / "a" / "m.gguf"))


def test_all_models_that_cannot_be_read_are_named_at_once(make_model: MakeModel, tmp_path: Path) -> None:
    (make_model("broken", 1) / "model.safetensors").write_bytes(b"not")
    (make_model("empty", 1) / "config.json").unlink()
    make_model("good", 1)
    names = ("broken", "empty", "good", "/nowhere/missing")
    with pytest.raises(UserError) as caught:
        open_sources({name: name for name in names}, (tmp_path,))
    message = str(caught.value)
    assert message.startswith("3 models cannot be read:")
    assert all(name in message for name in ("broken/model.safetensors", "empty/config.json", "missing"))
    assert "good" not in message
