"""What a folder or file that is not a model folder holds, for messages: its kind, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["file_hint", "folder_hint"]

_SAFETENSORS = "evomerge reads model folders as transformers saves them: config.json and *.safetensors."
_ORIGINAL = f"{_SAFETENSORS} Name the folder or hub id of the model that it was made from."
_KINDS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("*.gguf", "*.ggml", "ggml-*.bin"), "GGUF files, for llama.cpp", _ORIGINAL),
    (("*.onnx", "onnx/*.onnx"), "an ONNX graph", _ORIGINAL),
    (
        ("openvino_model.xml", "*.engine", "*.mlpackage", "*.mlmodel", "*.tflite"),
        "a compiled model",
        _ORIGINAL,
    ),
    (("params_shard_*.bin",), "weights of MLC", _ORIGINAL),
    (
        ("flax_model*.msgpack", "tf_model*.h5", "model.ckpt*"),
        "weights of Flax or TensorFlow",
        "Save it with transformers from PyTorch first (save_pretrained).",
    ),
    (
        ("adapter_config.json",),
        "a LoRA adapter",
        "It holds a LoRA adapter: name it as base_model+adapter.",
    ),
    (
        ("*.distcp", "*/*.distcp", "global_step*", "*/*_model_states.pt", "mp_rank_*", "pytorch_model_fsdp*"),
        "a training checkpoint in parts (FSDP, DeepSpeed, Megatron)",
        "Put its weights together first (accelerate merge-weights, or zero_to_fp32.py of the folder).",
    ),
    (
        ("consolidated*.pth", "consolidated*.pt", "*.pth", "*.pt", "*.ckpt", "*.nemo", "*.npz"),
        "weights that transformers does not read",
        f"{_SAFETENSORS} Convert it with the script of the model's family in transformers.",
    ),
    (
        ("model_index.json",),
        "a pipeline of diffusers",
        "Name a folder in it that is a model of transformers.",
    ),
)
"""Files, what they are, what to do. The first that there are."""
_WEIGHTS = (".safetensors", ".bin", ".json")
_LISTED = 3


def folder_hint(folder: Path) -> tuple[str, str]:
    """What ``folder`` holds in place of a model, in a few words, and what to do; empty if it is not known."""
    for patterns, kind, hint in _KINDS:
        found = _find(folder, patterns)
        if found:
            shown = ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
            return f"{kind} ({shown})", hint
    inner = _model_folders(folder)
    if inner:
        shown = ", ".join(inner[:_LISTED]) + (", ..." if len(inner) > _LISTED else "")
        return f"other model folders ({shown})", f"Name one of them: {folder / inner[-1]}."
    return "", ""


def file_hint(file: Path, named: str) -> tuple[str, str]:
    """The same of a file that was named in place of a model folder."""
    for patterns, kind, hint in _KINDS:
        if any(file.match(pattern) for pattern in patterns if "." in pattern and "/" not in pattern):
            return f"is a file, not a model folder: {kind}", hint
    if file.suffix in _WEIGHTS:
        # As it was written, so that it can be put into the recipe.
        return "is a file, not a model folder", f"Name the folder: {Path(named).parent}."
    return "is a file, not a model folder", _SAFETENSORS


def _find(folder: Path, patterns: Sequence[str]) -> list[str]:
    try:
        return sorted(str(p.relative_to(folder)) for pattern in patterns for p in folder.glob(pattern))
    except OSError:  # it may not be listed
        return []


def _model_folders(folder: Path) -> list[str]:
    """Folders in ``folder`` that look like models: such as checkpoints of a training run; the newest last."""
    names = [Path(name).parent.name for name in _find(folder, ("*/config.json", "*/adapter_config.json"))]
    return sorted(dict.fromkeys(names), key=lambda name: (len(name), name))
