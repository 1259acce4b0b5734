"""What decides the answers of a model besides its weights, as one digest."""

from __future__ import annotations

import hashlib
import json
from weakref import WeakKeyDictionary

from evomerge.engine.plan import MergePlan
from evomerge.engine.tokenizer_folders import TokenizerFolder
from evomerge.tokenizers.vocabulary import tokenizer_files

__all__ = ["config_digest"]

_WITHOUT_EFFECT = ("_name_or_path", "transformers_version")
_tokenizers: WeakKeyDictionary[TokenizerFolder, str] = WeakKeyDictionary()
"""Digests of tokenizers that are in use."""


def config_digest(plan: MergePlan) -> str:
    """A digest of the configuration and the tokenizer (chat template included) of ``plan``.

    Models with the same weights and the same digest give the same answers.
    """
    if plan.tokenizer not in _tokenizers:
        state = hashlib.sha256()
        for file in tokenizer_files(plan.tokenizer.path):
            content = file.read_bytes()
            state.update(f"{file.name} {len(content)}\n".encode() + content)
        _tokenizers[plan.tokenizer] = state.hexdigest()
    config = {key: value for key, value in plan.config.items() if key not in _WITHOUT_EFFECT}
    text = json.dumps([config, _tokenizers[plan.tokenizer]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
