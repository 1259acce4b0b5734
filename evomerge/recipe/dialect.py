"""Converts recipes as people write them to the form that the schema reads.

Numbers and booleans as text (YAML 1.1 reads ``1e-5`` as a text), other names of dtypes and methods, empty
sections, and fields that mean nothing here. What is ignored or means something else than in MergeKit gives a
warning. A document that needs none of this comes back as it is.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from evomerge.recipe.loader import Document
from evomerge.recipe.model import Module, Recipe, Slice, Source, TokenizerSpec, TokenRule, TokenSource

__all__ = ["MISPLACED", "as_number", "as_plain", "normalise", "whole", "without_extras"]

MISPLACED = frozenset(
    """
    allow_negative_weights density epsilon eps gamma int8_mask lambda max_iter normalize normalize_weights
    nuslerp_flatten nuslerp_row_wise rescale rescale_norm scale select_topk t tol weight filter_wise
    r alpha r_thresh swapping k consensus_method consensus_threshold seed
    """.split()  # noqa: SIM905
)
"""Parameters of methods: beside ``parameters`` instead of under it they would be lost."""
_HARMLESS = frozenset(
    """
    architecture architectures author authors comment comments date description language
    library_name licence license license_name metadata model_name model_type note notes out_path
    output pipeline_tag tag tags title version
    """.split()  # noqa: SIM905
)
"""Fields that say nothing about the merge, some of which look like those that do."""
_SLIPS = frozenset(
    """
    base method params torch_dtype output_dtype
    """.split()  # noqa: SIM905
)
"""Mistaken field names that are too far from the right ones to be found by their letters."""
_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "fp64": "float64",
    "double": "float64",
}
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LONGEST = 400
_EMPTY = ("models", "slices", "modules", "tokenizer_source", "chat_template")
"""Fields that may be left empty, as in MergeKit."""
_KINDS = ("float", "int", "choice")
_MOST_UNKNOWN = 100
"""Fields of one section that recipes do not have; a document with more is not a recipe."""
_NEAR = 0.7
"""Letters that an unknown field shares with a known one before it counts as a slip (difflib's ratio)."""


def as_number(value: Any) -> Any:
    """The number that the text ``value`` is; anything else as it is. No NaN, and nothing infinite."""
    if not isinstance(value, str) or len(value) > _LONGEST or not _NUMBER.fullmatch(value.strip()):
        return value
    text = value.strip()
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        return value
    # 1e2 is written for a whole number, 1.0e2 for a fraction that happens to be one.
    return int(number) if "." not in text and number.is_integer() and abs(number) < 2**53 else number


def as_plain(value: Any) -> Any:
    """The number or boolean that the text ``value`` is; anything else as it is."""
    if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    return as_number(value)


def whole(value: Any) -> Any:
    """The whole number that ``value`` (``8.0``, ``"8"``, ``1e2``) is; anything else as it is."""
    number = as_number(value)
    if isinstance(number, float) and number.is_integer() and abs(number) < 2**53:
        return int(number)
    return number


def normalise(document: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The recipe ``document``, with or without holes, as the schema reads it; and warnings.

    Fields that look like slips stay for the schema to refuse.
    """
    reader = _Reader()
    read = reader.recipe(document, "")
    return read, tuple(dict.fromkeys(reader.warnings))


def without_extras(
    document: Mapping[str, Any], model: type[BaseModel]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """``document`` without keys that carry an anchor, a comment or an extension; a warning for each."""
    carriers = document.carriers if isinstance(document, Document) else frozenset()
    extras = [
        k
        for k in document
        if isinstance(k, str)
        and k not in model.model_fields
        and (k in carriers or k == "description" or k.startswith(("x-", ".")))
    ]
    warnings = [*(document.warnings if isinstance(document, Document) else ()), *map(_no_effect, extras)]
    return {k: v for k, v in document.items() if k not in extras}, tuple(warnings)


def _no_effect(place: str) -> str:
    return f"{place} has no effect: it is not a field of this file"


def _is_hole(node: Any) -> bool:
    return isinstance(node, Mapping) and any(kind in node for kind in _KINDS)


def _slip(key: str, known: list[str]) -> bool:
    """Whether ``key`` may be meant to be one of ``known``, or a parameter that stands in a wrong place."""
    if len(key) > _LONGEST or key in _HARMLESS:
        return False
    plain = key.lower().replace("-", "_")
    if plain in MISPLACED or plain in _SLIPS:
        return True
    return bool(difflib.get_close_matches(plain, known, n=1, cutoff=_NEAR))


class _Reader:
    """One pass over a document; ``place`` is where its part stands, ``models[1].`` for instance."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def recipe(self, given: Mapping[str, Any], place: str) -> dict[str, Any]:
        if _is_hole(given):
            return dict(given)
        carriers: frozenset[str] = frozenset()
        if isinstance(given, Document):
            carriers = given.carriers
            self.warnings += given.warnings
        document = self._parameters(self._read_seed(dict(given), place))
        document = {k: v for k, v in document.items() if not (k in _EMPTY and v in ("", [], {}))}
        document = self._keep_known(document, Recipe, place, carriers)
        for field, read in (("merge_method", _method), ("dtype", _dtype), ("out_dtype", _dtype)):
            if field in document:
                document[field] = _read_choices(document[field], read)
        self._reference(document, "base_model", place)
        self._entries(document, "models", self._source, place)
        self._entries(document, "slices", self._slice, place)
        modules = document.get("modules")
        if isinstance(modules, Mapping) and not _is_hole(modules):
            document["modules"] = {k: self._module(v, f"{place}modules.{k}.") for k, v in modules.items()}
        if isinstance(document.get("tokenizer"), Mapping):
            document["tokenizer"] = self._tokenizer(document["tokenizer"], f"{place}tokenizer.")
        self._entries(document, "stages", self.recipe, place)
        return document

    def _keep_known(
        self, node: dict[str, Any], model: type[BaseModel], place: str, carriers: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """``node`` without what has no meaning here; slips stay, for the schema to refuse."""
        kept = {}
        if len(node.keys() - model.model_fields.keys()) > _MOST_UNKNOWN:
            return node
        for key, value in node.items():
            if not isinstance(key, str) or key in model.model_fields:
                kept[key] = value
            elif key in carriers or key.startswith(("x-", ".")) or not _slip(key, list(model.model_fields)):
                self.warnings.append(
                    f"{place}{key} has no effect: recipes have no such field"
                    + (". Options of the command line are not read from recipes" if key in _OPTIONS else "")
                )
            else:
                kept[key] = value
        return kept

    def _read_seed(self, document: dict[str, Any], place: str) -> dict[str, Any]:
        """``random_seed``, a field or an option of MergeKit, as the parameter ``seed``."""
        if "random_seed" not in document or not isinstance(document.get("parameters") or {}, Mapping):
            return document
        seed = whole(document.pop("random_seed"))
        parameters = dict(document.get("parameters") or {})
        if seed is None:
            return document
        if "seed" in parameters:
            self.warnings.append(f"{place}random_seed has no effect: {place}parameters.seed is given")
        else:
            self.warnings.append(f"{place}random_seed is read as {place}parameters.seed")
            document["parameters"] = {**parameters, "seed": seed}
        return document

    def _parameters(self, node: dict[str, Any]) -> dict[str, Any]:
        parameters = node.get("parameters", node)
        if parameters is None:
            return {k: v for k, v in node.items() if k != "parameters"}
        if parameters is not node and isinstance(parameters, Mapping) and not _is_hole(parameters):
            node["parameters"] = {name: _setting(setting) for name, setting in parameters.items()}
        return node

    def _entries(self, node: dict[str, Any], field: str, read: Any, place: str) -> None:
        entries = node.get(field)
        if isinstance(entries, list | tuple):
            node[field] = [
                read(e, f"{place}{field}[{i}].") if isinstance(e, Mapping) and not _is_hole(e) else e
                for i, e in enumerate(entries)
            ]

    def _source(self, given: Mapping[str, Any], place: str) -> dict[str, Any]:
        node = self._read_location(self._parameters(dict(given)), place)
        node = self._keep_known(node, Source, place)
        self._reference(node, "model", place)
        bounds = node.get("layer_range")
        if isinstance(bounds, list | tuple):
            node["layer_range"] = [_setting(b) if _is_hole(b) else whole(b) for b in bounds]
        return node

    def _read_location(self, node: dict[str, Any], place: str) -> dict[str, Any]:
        """``revision`` and ``lora`` beside ``model`` as parts of the reference, which MergeKit ignores."""
        model = node.get("model")
        for field, sign in (("revision", "@"), ("lora", "+")):
            part = node.get(field)
            if isinstance(part, Mapping) and isinstance(part.get("path"), str):
                part = f"{part['path']}@{part['revision']}" if part.get("revision") else part["path"]
            if field in node and part is None:
                node = {k: v for k, v in node.items() if k != field}
            elif isinstance(model, str) and isinstance(part, str) and "+" not in model:
                if field == "revision" and "@" in model:
                    continue
                model = f"{model}{sign}{part}"
                self.warnings.append(f"{place}{field}: the model is read as {model!r}")
                node = {k: v for k, v in node.items() if k != field} | {"model": model}
        return node

    def _slice(self, given: Mapping[str, Any], place: str) -> dict[str, Any]:
        node = self._keep_known(self._parameters(dict(given)), Slice, place)
        self._reference(node, "base_model", place)
        self._entries(node, "sources", self._source, place)
        return node

    def _module(self, given: Any, place: str) -> Any:
        if not isinstance(given, Mapping) or _is_hole(given):
            return given
        node = self._keep_known(self._parameters(dict(given)), Module, place)
        self._entries(node, "models", self._source, place)
        self._entries(node, "slices", self._slice, place)
        return node

    def _tokenizer(self, given: Mapping[str, Any], place: str) -> dict[str, Any]:
        if _is_hole(given):
            return dict(given)
        node = self._keep_known(dict(given), TokenizerSpec, place)
        if "tokens" in node and node["tokens"] is None:
            del node["tokens"]
        if "pad_to_multiple_of" in node:
            node["pad_to_multiple_of"] = whole(node["pad_to_multiple_of"])
        if isinstance(node.get("tokens"), Mapping) and not _is_hole(node["tokens"]):
            node["tokens"] = {k: self._rule(v, f"{place}tokens.{k}.") for k, v in node["tokens"].items()}
        return node

    def _rule(self, given: Any, place: str) -> Any:
        if given is None:
            return {}
        if not isinstance(given, Mapping) or _is_hole(given):
            return given
        node = self._keep_known(dict(given), TokenRule, place)
        if "force" in node:
            node["force"] = as_plain(node["force"])
        source = node.get("source")
        if isinstance(source, Mapping) and "kind" in source:
            node["source"] = self._keep_known(dict(source), TokenSource, f"{place}source.")
            if "token_id" in node["source"]:
                node["source"]["token_id"] = whole(node["source"]["token_id"])
        return node

    def _reference(self, node: dict[str, Any], field: str, place: str) -> None:
        given = node.get(field)
        if isinstance(given, Mapping) and given.get("override_architecture") is not None:
            self.warnings.append(
                f"{place}{field}.override_architecture has no effect: layers are found from tensor names"
            )


_OPTIONS = frozenset(
    """
    allow_crimes async_write clone_tensors copy_tokenizer cuda device gpu_rich lazy_unpickle
    lora_merge_cache lora_merge_dtype low_cpu_memory multi_gpu num_threads out_path out_shard_size
    quiet read_to_gpu safe_serialization transformers_cache trust_remote_code
    unsafe_truncate_embeddings write_model_card
    """.split()  # noqa: SIM905
)


def _setting(node: Any) -> Any:
    """A setting of a parameter, or a hole, with numbers and booleans in place of their texts."""
    if isinstance(node, Mapping):
        read = {k: v if k in ("filter", "name") else _setting(v) for k, v in node.items()}
        if "int" in read:
            for key in ("int", "init"):
                value = read.get(key)
                read.update({key: list(map(whole, value)) if isinstance(value, list) else whole(value)})
            if "init" not in node:
                del read["init"]
        if _is_hole(read) and "points" in read:
            read["points"] = whole(read["points"])
        return read
    if isinstance(node, list | tuple):
        return [_setting(v) for v in node]
    return as_plain(node)


def _read_choices(node: Any, read: Any) -> Any:
    """``read`` of a text, or of each choice of a hole."""
    if isinstance(node, Mapping) and isinstance(node.get("choice"), list):
        choices = {k: _read_choices(v, read) for k, v in node.items() if k == "init"}
        return {**node, **choices, "choice": [_read_choices(v, read) for v in node["choice"]]}
    return read(node) if isinstance(node, str) else node


def _method(name: str) -> str:
    return re.sub(r"[-\s]+", "_", name.strip().lower())


def _dtype(name: str) -> str:
    plain = name.strip().lower().removeprefix("torch.")
    return _DTYPES.get(plain, plain)
