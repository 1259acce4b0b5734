"""Tiny models and random recipes over them, for comparisons with MergeKit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import yaml

__all__ = ["Recipes", "make_adapters", "make_models"]

LAYERS = 4
WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijkl"]
"""And one more word in each model."""
_STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "widened": torch.float32}
"""How each model is stored, in this order: ``widened`` has the values of ``bfloat16``."""
FAMILIES = ("llama", "qwen")
FILTERS = ("self_attn", "mlp", "norm", "q_proj", "layers.1.", "embed_tokens", "*")


def make_models(folder: Path) -> None:
    """Base and three fine-tunes of each family, in float32 and bfloat16; ``c`` has words of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    shape = {
        "vocab_size": len(WORDS) + 1,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    for family in FAMILIES:
        for seed, name in enumerate(("base", "a", "b", "c")):
            torch.manual_seed(7)
            model = (
                LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
                if family == "llama"
                else Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
            )
            torch.manual_seed(100 + seed)
            with torch.no_grad():
                for weight in model.parameters():
                    start = torch.randn_like(weight) * 0.1 if seed == 0 else torch.zeros_like(weight)
                    weight.add_(start + (0.02 * torch.randn_like(weight) if seed else 0))
            words = [*WORDS, f"own_{name}" if name == "c" else "shared"]
            for suffix, dtype in _STORED.items():
                target = folder / f"{family}_{name}_{suffix}"
                model.to(dtype).save_pretrained(target)
                _tokenizer(words).save_pretrained(target)


def make_adapters(folder: Path) -> None:
    """A LoRA for each family, ``FAMILY_lora``."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for family in FAMILIES:
        torch.manual_seed(11)
        model = AutoModelForCausalLM.from_pretrained(folder / f"{family}_base_float32")
        settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
        adapted = get_peft_model(model, settings)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.1 * torch.randn_like(weight))
        adapted.save_pretrained(folder / f"{family}_lora")


def _tokenizer(words: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


class Recipes:
    """Recipes drawn from ``seed``: any method, any of the forms that recipes have.

    With ``stochastic``, only methods that drop elements at random, with densities below 1.
    """

    def __init__(self, folder: Path, seed: int, *, stochastic: bool = False) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._stochastic = stochastic

    def draw(self) -> str:
        """One recipe, in YAML: one document, or two of which the first is a stage."""
        document = self._document()
        documents = [document]
        merged = _models_of(document)
        own = [m for m in merged if m != document.get("base_model")]
        family = Path(own[0]).name.split("_")[0] if own else "llama"
        form = self._random.random()
        if own and form < 0.12:
            document = _replaced(document, own[0], f"{own[0]}+{self._folder}/{family}_lora")
            documents = [document]
        elif own and form < 0.24 and "tokenizer" not in document:
            stage = {
                "name": "half",
                "merge_method": "linear",
                "models": [
                    {"model": m, "parameters": {"weight": round(self._random.uniform(0.1, 1.5), 2)}}
                    for m in dict.fromkeys((own[0], own[-1]))
                ],
                "base_model": own[0],  # without one, MergeKit's copies any one's tokenizer
                "dtype": "float32",
            }
            documents = [stage, _replaced(document, own[0], "half")]
        return yaml.safe_dump_all(documents, sort_keys=False)

    def _document(self) -> dict[str, Any]:
        from evomerge.methods import Base, methods

        names_of = [m for m in methods() if not self._stochastic or m.name.startswith(("dare", "della"))]
        method = self._random.choice(names_of)
        family = self._random.choice(FAMILIES)
        dtypes = self._random.choice((("float32",), ("float32",), ("bfloat16",), ("float32", "bfloat16")))
        if self._stochastic:
            dtypes = ("float32",)
        paths = {
            name: str(self._folder / f"{family}_{name}_{self._random.choice(dtypes)}")
            for name in ("base", "a", "b", "c")
        }
        least, most = method.models
        names = ["a", "b", "c"][: self._random.randint(least, min(3, most or 3))]
        document: dict[str, Any] = {"merge_method": method.name}
        lists_base = method.name == "slerp" or self._random.random() < 0.4
        if method.base is Base.REQUIRED or (method.name != "passthrough" and self._random.random() < 0.5):
            document["base_model"] = paths["base"]
            names = [*names, "base"] if lists_base else names
        self._random.shuffle(names)
        sources = [
            {"model": paths[name], "parameters": self._parameters(method, per_model=True)} for name in names
        ]
        self._arrange(document, sources, method)
        document["parameters"] = {
            **self._parameters(method, per_model=True, required=True),
            **self._parameters(method, per_model=False, required=True),
        }
        for key, values in (
            ("dtype", ("float32", "float32", "float32", "bfloat16", None)),
            ("out_dtype", (None, None, None, "float16", "float32")),
            ("tokenizer_source", (None, None, None, "union", "base", paths["a"])),
        ):
            value = self._random.choice(values)
            if key == "tokenizer_source" and family != "llama":
                continue  # versions of transformers add other tokens to a tokenizer of Qwen2
            is_there = value not in (paths["a"], "base") or (
                "a" in names if value == paths["a"] else "base_model" in document
            )
            if value is not None and is_there and not (self._stochastic and key != "dtype"):
                document[key] = value
        if self._stochastic:
            document["dtype"] = "float32"
        elif "tokenizer_source" in document and method.name not in _RANKS and self._random.random() < 0.6:
            document["tokenizer"] = self._vocabulary(
                document.pop("tokenizer_source"), paths[self._random.choice(names)]
            )
        elif self._random.random() < 0.1:
            module = {k: document.pop(k) for k in ("models", "slices") if k in document}
            module["parameters"] = self._parameters(method, per_model=self._random.random() < 0.5)
            document["modules"] = {"default": module}
        return document

    def _vocabulary(self, source: str, there: str) -> dict[str, Any]:
        """A tokenizer section with rows for padding, and rules for tokens that the model ``there`` has."""
        section: dict[str, Any] = {"source": source}
        if self._random.random() < 0.4:
            section["pad_to_multiple_of"] = self._random.choice((1, 4, 8, 32))
        rules: dict[str, Any] = {
            "h": {"source": there, "force": True},
            "i": {"source": {"kind": "model_token", "model": there, "token": "k"}, "force": True},
            "j": {"source": {"kind": "zero"}, "force": self._random.random() < 0.5},
        }
        if source != "base":  # MergeKit fails where it adds to the base's tokenizer
            rules["new"] = {"source": {"kind": "model_token", "model": there, "token_id": 5}}
            rules["none"] = {"source": {"kind": "zero"}}
        chosen = {token: rule for token, rule in rules.items() if self._random.random() < 0.4}
        if chosen:
            section["tokens"] = chosen
        return section

    def _arrange(self, document: dict[str, Any], sources: list[dict[str, Any]], method: Any) -> None:
        """The sources as models or slices."""
        base = document.get("base_model")
        is_llama = "llama_" in sources[0]["model"]  # MergeKit does not stack layers of Qwen2
        if not is_llama or self._random.random() < 0.6:
            document["models"] = sources
            return
        if base is not None and all(s["model"] != base for s in sources):
            sources.append({"model": base, "parameters": {}})
        slices: list[dict[str, Any]] = []
        same_words = not any("_c_" in source["model"] for source in sources)
        for _ in range(self._random.randint(1, 3)):
            count = self._random.randint(1, LAYERS)
            first = self._random.randint(0, LAYERS - count)
            firsts = [
                first if self._random.random() < 0.8 else self._random.randint(0, LAYERS - count)
                for _ in sources
            ]
            ranged = [
                {**source, "layer_range": [first, first + count]}
                for source, first in zip(sources, firsts, strict=True)
            ]
            slices.append({"sources": ranged})
            if self._random.random() < 0.3:
                of_all = self._random.random() < 0.5
                slices[-1]["parameters"] = self._parameters(method, per_model=not of_all)
            # Where vocabularies differ, rows come from the slice's base there, from the recipe's here.
            if base is not None and self._random.random() < 0.2 and same_words:
                slices[-1]["base_model"] = self._random.choice(sources)["model"]
        document["slices"] = slices

    def _parameters(self, method: Any, *, per_model: bool, required: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for parameter in method.parameters.values():
            if parameter.per_model is not per_model or parameter.name in _NOT_THERE.get(method.name, ()):
                continue
            if parameter.name in ("seed", "max_iter", "tol", "eps"):
                continue
            wanted = required and (parameter.required or (self._stochastic and parameter.name == "density"))
            if not wanted and self._random.random() < 0.5:
                continue
            value = self._setting(method.name, parameter)
            if wanted and isinstance(value, list) and isinstance(value[0], dict):
                value = [*value, {"value": self._scalar(method.name, parameter)}]
            found[parameter.name] = value
        return found

    def _setting(self, method: str, parameter: Any) -> Any:
        """A value, a gradient or filters."""
        form = self._random.random()
        if form < 0.6:
            return self._scalar(method, parameter)
        if form < 0.8 and parameter.kind is float:
            return [self._scalar(method, parameter) for _ in range(self._random.randint(2, 4))]
        return [
            {"filter": self._random.choice(FILTERS), "value": self._scalar(method, parameter)}
            for _ in range(self._random.randint(1, 2))
        ]

    def _scalar(self, method: str, parameter: Any) -> Any:
        if parameter.kind is bool:
            return self._random.random() < 0.5
        if parameter.name == "density" and method.startswith(("dare", "della")):
            return round(self._random.uniform(0.3, 0.7), 2) if self._stochastic else 1.0
        if parameter.name == "epsilon" and method.startswith("della"):
            return round(self._random.uniform(0.05, 0.25), 2) if self._stochastic else 0.0
        if parameter.name == "weight":
            return round(self._random.uniform(0.1, 1.5), 2)
        if parameter.name == "gamma":
            return round(self._random.uniform(0.0, 0.2), 2)
        if parameter.name == "density":
            return round(self._random.uniform(0.3, 1.0), 2)
        high = parameter.high if parameter.high is not None else 1.5
        return round(self._random.uniform(max(parameter.low or 0.05, 0.05), min(high, 1.5)), 2)


def _models_of(document: dict[str, Any]) -> list[str]:
    """The models that are merged, each once."""
    parts = (document, *document.get("modules", {}).values())
    sources = [s for part in parts for s in part.get("models", ())]
    sources += [s for part in parts for one in part.get("slices", ()) for s in one["sources"]]
    return list(dict.fromkeys(source["model"] for source in sources))


def _replaced(node: Any, old: str, new: str) -> Any:
    """``node`` with ``new`` for each text that is ``old``."""
    if isinstance(node, dict):
        return {key: _replaced(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, old, new) for value in node]
    return new if node == old else node


_RANKS = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")
"""Methods that rank by magnitude: of equal rows (padding, copies of tokens) they keep others."""
_NOT_THERE = {"karcher": ("weight",)}
"""Parameters that MergeKit's method of that name lacks."""
