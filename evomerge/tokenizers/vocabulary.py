"""The tokenizer of a model folder, and its vocabulary: the one door to transformers' tokenizers."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError

__all__ = [
    "Vocabulary",
    "has_tokenizer",
    "load_tokenizer",
    "quick_ids",
    "quiet",
    "tokenizer_files",
    "vocabulary_of",
]

_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "sentencepiece*",
    "spiece.model",
    "chat_template*",
    "tekken.json",
)
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model*",
    "vocab.*",
    "*.tiktoken",
    "sentencepiece*",
    "spiece.model",
    "tekken.json",
)
"""Files of which every tokenizer has at least one: they hold its tokens."""
_WITHOUT_FILES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
"""Tokenizers of bytes and characters, which have none."""
_LARGEST_ID = 2**23
"""Some thirty times the largest vocabulary there is; maps between rows take memory for each."""
_SPECIAL = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer and their rows in the embedding; ``added`` ones are matched in the raw text.

    ``special`` is the row for each role (``eos_token_id``) that the tokenizer knows.
    """

    ids: Mapping[str, int]
    added: frozenset[str] = frozenset()
    special: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Rows that an embedding needs: one more than the highest id, as ids may have gaps."""
        return max(self.ids.values(), default=-1) + 1

    def ordered(self) -> list[str]:
        """The tokens by id."""
        return sorted(self.ids, key=lambda token: self.ids[token])


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        with quiet(), _in_utf8(folder) as place:
            return AutoTokenizer.from_pretrained(str(place), trust_remote_code=False, local_files_only=True)
    # The readers of a dozen formats raise all kinds of exceptions on a damaged file, the compiled one a bare
    # Exception.
    except BaseException as exception:
        if not isinstance(exception, Exception) and type(exception).__name__ != "PanicException":
            raise  # Ctrl-C is; a panic of the compiled reader is no Exception either
        first = str(exception).splitlines()[0] if str(exception) else type(exception).__name__
        raise CheckpointError(
            str(folder),
            f"its tokenizer cannot be loaded ({first})",
            "Copy the tokenizer files of the base model into the folder.",
        ) from None


@contextmanager
def _in_utf8(folder: Path) -> Iterator[Path]:
    """``folder``, or a temporary one in which JSON files in UTF-16 or with a byte-order mark are in UTF-8."""
    encodings = {}
    for file in folder.glob("*.json") if folder.is_dir() else ():
        with file.open("rb") as opened:
            encodings[file.name] = json.detect_encoding(opened.read(4))
    if set(encodings.values()) <= {"utf-8"}:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="evomerge-") as temporary:
        for file in folder.iterdir():
            encoding = encodings.get(file.name, "utf-8")
            if encoding == "utf-8":
                (Path(temporary) / file.name).symlink_to(file.resolve())
            else:
                text = file.read_text(encoding=encoding)
                (Path(temporary) / file.name).write_text(text, encoding="utf-8")
        yield Path(temporary)


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a loaded tokenizer.

    Raises:
        CheckpointError: A token has an id that no embedding has room for.
    """
    ids = {str(token): int(i) for token, i in tokenizer.get_vocab().items()}
    if max(ids.values(), default=0) > _LARGEST_ID:
        raise CheckpointError(
            str(tokenizer.name_or_path),
            f"its tokenizer has ids beyond {_LARGEST_ID}, more than an embedding can have",
        )
    added = frozenset(str(t.content) for t in tokenizer.added_tokens_decoder.values())
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id", None) for role in _SPECIAL}
    return Vocabulary(ids, added & ids.keys(), {k: int(v) for k, v in special.items() if v is not None})


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder holds a tokenizer, not only settings of one."""
    if any(file.is_file() for pattern in _VOCABULARIES for file in folder.glob(pattern)):
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and settings.get("tokenizer_class") in _WITHOUT_FILES


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a model folder that make its tokenizer, chat template included, by name."""
    found = {file.name: file for pattern in _FILES for file in folder.glob(pattern) if file.is_file()}
    return [found[name] for name in sorted(found)]


def quick_ids(folder: Path) -> dict[str, int] | None:
    """Tokens and ids straight from ``tokenizer.json``, without loading a tokenizer; None where that fails."""
    try:
        document = json.loads((folder / "tokenizer.json").read_bytes())
        vocabulary = document["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
            vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
        added = {entry["content"]: entry["id"] for entry in document.get("added_tokens") or ()}
        return {**vocabulary, **added}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """Within, transformers shows no progress bars and no advice about training."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level, bar = logger.level, transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()
