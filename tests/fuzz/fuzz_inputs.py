"""Untrusted inputs: documents that are nearly right, odd values, damaged files."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import strategies as st

MODELS = ("base", "one", "two")
LORA_NAMES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.mlp.up_proj",
    "model.embed_tokens",
    "lm_head",
)

WORDS = (
    "base", "one", "two", "low", "mid", "linear", "ties", "dare_ties", "slerp", "passthrough", "sce",
    "model_stock", "karcher", "della",
    "breadcrumbs", "nuslerp", "multislerp", "arcee_fusion", "task_arithmetic", "float32", "bfloat16",
    "mlp", "norm", "a", "b", "union",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 4, 0.5, 0.25, 1.0, 1.5, -1, True, False)
ODD_NUMBERS = (
    0, -1, 1, 2, 3, 5, 255, 2**31, 2**53 + 1, 2**63, 2**64, 10**20, 10**400, -(10**400), 0.0, -0.0, 0.5,
    1.5, -3.25,
    1e-320, 1e308, -1e308, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan"), True,
    False, None,
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "\n", "*", ".", "..", "/", "~", "~nobody/x", "../../etc/passwd", "/etc/passwd", "a" * 300,
    "x\0y", "\ud800",
    "é", "٣", "²", "a+b", "+", "a+b+c", "a@b", "@", "a@../../x", "org/model", "org/../model", "-",
    "--help", "union", "base",
    "auto", "ties", "linear", "slerp", "passthrough", "dare_ties", "karcher", "float32", "bfloat16",
    "float64", "int8", "q_proj",
    "mlp", "model.layers", "{{", "{% for x in y %}", "{% endfor %}", "{{ x }}", "{{ 1e999 ** 9 }}",
    "null", "1", "1e400", "x.yml",
    "base/../base", "file:///etc/passwd", "https://127.0.0.1:1/x", "$HOME", "%s%n", "a" * 5000, "one",
    "two", "text_decoder",
    "default", "vision_tower", "model", "lm_head", "</s>", "a", "b", "<x>", "(a+)+$", "(", "[", ".*",
    "layers.(0|1)",
)  # fmt: skip
ODD_KEYS = (
    "model", "models", "slices", "modules", "sources", "layer_range", "parameters", "weight", "density",
    "lambda", "t", "name",
    "base_model", "merge_method", "dtype", "out_dtype", "tokenizer", "tokenizer_source", "chat_template",
    "stages", "filter",
    "value", "float", "int", "choice", "init", "log", "points", "kind", "token", "token_id", "force",
    "source", "tokens", "path",
    "lora", "revision", "pad_to_multiple_of", "normalize", "select_topk", "gamma", "epsilon", "nonsense",
    "0", "", "*", "x\0y",
    "trials", "population", "sigma", "seed", "restarts", "sampler", "tasks", "task", "metric", "splits",
    "search", "include_path",
    "trust_remote_code", "batch_size", "count", "backend", "timeout", "storage", "output", "dir",
    "space", "recipe", "fitness",
)  # fmt: skip

scalars = st.one_of(
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.floats(),
    st.integers(-5, 40),
    st.text(max_size=12),
    st.binary(max_size=3),
)
holes = st.one_of(
    st.fixed_dictionaries(
        {"float": st.lists(scalars, max_size=3)},
        optional={
            "points": scalars,
            "init": st.one_of(scalars, st.lists(scalars, max_size=4)),
            "log": scalars,
            "name": scalars,
        },
    ),
    st.fixed_dictionaries({"int": st.lists(st.integers(-3, 9), max_size=3)}, optional={"init": scalars}),
    st.fixed_dictionaries({"choice": st.lists(scalars, max_size=4)}, optional={"init": scalars}),
    st.fixed_dictionaries({"float": st.just([0, 1.5])}, optional={"points": st.integers(0, 5)}),
    st.fixed_dictionaries({"int": st.just([1, 3])}),
    st.fixed_dictionaries({"choice": st.just(["linear", "ties"])}),
)
values = st.recursive(
    scalars | holes,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(ODD_KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in a document, that of the document itself left out."""
    found = []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += [(*at, key), *paths(value, (*at, key))]
    return found


@st.composite
def damaged(draw: st.DrawFn, documents: st.SearchStrategy[Any], most: int = 3, odd: Any = values) -> Any:
    """One of ``documents`` with up to ``most`` places replaced, removed, doubled, or grown a key."""
    document = copy.deepcopy(draw(documents))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, most)))):
        places = paths(document)
        if not places:
            break
        *above, last = draw(st.sampled_from(places))
        node = document
        for step in above:
            node = node[step]
        how = draw(st.sampled_from(("like", "like", "like", "set", "set", "remove", "copy", "key")))
        if how == "like" and isinstance(node[last], str):
            node[last] = draw(st.sampled_from(WORDS))
        elif how == "like" and isinstance(node[last], int | float):
            node[last] = draw(st.sampled_from(NUMBERS))
        elif how in ("like", "set"):
            node[last] = copy.deepcopy(draw(odd))  # what is drawn may be shared
        elif how == "remove":
            del node[last]
        elif how == "copy" and isinstance(node, list):
            node.append(copy.deepcopy(node[last]))
        elif isinstance(node, dict):
            node[draw(st.sampled_from(ODD_KEYS))] = copy.deepcopy(draw(odd))
    return document


_models = [{"model": "one", "parameters": {"weight": 0.5}}, {"model": "two", "parameters": {"weight": 0.25}}]
_slices = [
    {"sources": [{"model": "one", "layer_range": [0, 2]}, {"model": "two", "layer_range": [1, 3]}]},
    {"sources": [{"model": "two", "layer_range": [2, 3]}], "parameters": {"weight": 1}},
]
RECIPES: tuple[dict[str, Any], ...] = (
    {"merge_method": "linear", "models": _models, "dtype": "float32"},
    {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "one", "parameters": {"weight": [0, 0.5, 1], "density": 0.5}},
            {"model": "two", "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]}},
        ],
        "parameters": {"density": 0.3, "lambda": 1.1, "normalize": True},
        "out_dtype": "bfloat16",
    },
    {"merge_method": "linear", "slices": _slices, "parameters": {"weight": 0.5}},
    {"merge_method": "passthrough", "slices": [{"sources": [{"model": "one", "layer_range": [0, 3]}]}] * 2},
    {"merge_method": "slerp", "base_model": "base", "models": [{"model": "one"}], "parameters": {"t": 0.4}},
    {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "modules": {"text_decoder": {"models": _models}},
        "parameters": {"weight": 0.3},
    },
    {
        "merge_method": "dare_ties",
        "base_model": "mid",
        "models": [{"model": "one", "parameters": {"weight": 0.5, "density": 0.5}}],
        "stages": [
            {"name": "low", "merge_method": "linear", "models": _models},
            {
                "name": "mid",
                "merge_method": "slerp",
                "base_model": "base",
                "models": [{"model": "low"}],
                "parameters": {"t": 0.5},
            },
        ],
    },
)
_hole: dict[str, Any] = {"float": [0, 1.5], "points": 3, "init": 0.5}
SPACES: tuple[dict[str, Any], ...] = (
    {
        "merge_method": {"choice": ["ties", "dare_ties"]},
        "base_model": "base",
        "models": [
            {"model": "one", "parameters": {"weight": _hole, "density": {"float": [0.1, 1], "log": True}}},
            {"model": {"choice": ["two", "base"]}, "parameters": {"weight": 0.5, "density": 0.5}},
        ],
        "parameters": {"lambda": {"float": [0.5, 2], "name": "l"}},
    },
    {
        "merge_method": "linear",
        "slices": [
            {
                "sources": [
                    {"model": "one", "layer_range": [0, {"int": [1, 3]}], "parameters": {"weight": _hole}}
                ]
            }
        ],
    },
)
EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "models": {name: name for name in MODELS},
    "recipe": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "*", "parameters": {"weight": {"float": [0, 1.5], "init": 0.5}}}],
    },
    "fitness": {"tasks": ["a", {"task": "b", "weight": 2.0}], "splits": {"search": 0.5}, "include_path": "."},
    "search": {"trials": 8, "population": 4, "seed": 3, "sigma": 0.3, "sampler": "random"},
    "workers": {"backend": "ray", "count": 2, "timeout": 5, "gpus_per_worker": 0.5},
    "storage": "sqlite:///x.db",
    "output": {"dir": "out"},
}
_token = {"kind": "model_token", "model": "one", "token": "a"}
VOCABULARIES: tuple[dict[str, Any], ...] = (
    {"merge_method": "linear", "models": _models, "tokenizer": {"source": "union"}},
    {
        "merge_method": "linear",
        "models": _models,
        "tokenizer": {
            "source": "base",
            "tokens": {
                "<new>": {"source": _token, "force": True},
                "b": {"source": "two"},
                "<0>": {"source": {"kind": "zero"}},
            },
            "pad_to_multiple_of": 8,
        },
        "chat_template": "chatml",
    },
    {
        "merge_method": "linear",
        "models": _models,
        "tokenizer_source": "two",
        "chat_template": "{{ messages[0].content }}",
    },
    {"merge_method": "linear", "models": _models, "chat_template": "auto"},
)

recipes = damaged(st.sampled_from(RECIPES))
spaces = damaged(st.sampled_from(SPACES) | damaged(st.sampled_from(RECIPES), odd=holes))
experiments = damaged(st.just(EXPERIMENT))
vocabularies = damaged(st.sampled_from(VOCABULARIES))

FRAGMENTS = (
    "&a ", "*a", "<<: *a", "!!python/object:os.system x", "!!binary x", "!!set {a}", "!!omap [a: 1]",
    "!!timestamp x", "!!int ''",
    "!!bool x", "!!float x", "!!float ''", "2001-01-01", "2001-99-99", "0x" + "f" * 5000,
    "1:" * 500 + "1", "'", '"', '"\\ud800"',
    '"\\0"', "---\n", "...\n", "\t", "- ", ": ", "? ", "{", "}", "[", "]", "[" * 200,
    "{a: " * 100, "|\n", ">\n", "%YAML 9.9\n---\n",
    "%TAG ! x\n", "#", "\0", "\ufeff", "\x85", "=", "~", ".inf", ".nan", "1e999", "\n  ", "\n", ", ",
    "&a [*a]", "&a {<<: *a}", "!x y",
    "!!null x", "!!merge x", "9" * 5000, "0b1", "0o7", "1_000", "a: 1\na: 2\n",
    "!<tag:yaml.org,2002:python/name:os.system> ''",
)  # fmt: skip


def as_yaml(document: Any) -> str:
    """YAML of a document, odd texts and all."""
    try:
        return yaml.dump(document, Dumper=_Quick, sort_keys=False, allow_unicode=True)
    except UnicodeEncodeError:  # the compiled one cannot write half a character
        return yaml.dump(document, Dumper=_Thorough, sort_keys=False, allow_unicode=True)


class _Thorough(yaml.SafeDumper):
    """Without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Quick(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _number(dumper: Any, value: int) -> yaml.Node:
    text = str(value) if abs(value) < 10**300 else hex(value)
    node: yaml.Node = dumper.represent_scalar("tag:yaml.org,2002:int", text)
    return node


_Thorough.add_representer(int, _number)
_Quick.add_representer(int, _number)


@st.composite
def texts(draw: st.DrawFn, documents: st.SearchStrategy[Any], most: int = 4) -> str:
    """YAML of ``documents`` with pieces put in, taken out and repeated."""
    text = as_yaml(draw(documents))
    for _ in range(draw(st.integers(0, most))):
        i = draw(st.integers(0, len(text)))
        how = draw(st.sampled_from(("put", "put", "cut", "repeat", "over")))
        j = min(len(text), i + draw(st.integers(0, 30)))
        piece = draw(st.sampled_from(FRAGMENTS) | st.text(max_size=6))
        text = {
            "put": text[:i] + piece + text[i:],
            "cut": text[:i] + text[j:],
            "repeat": text[:j] + text[i:j] * 2 + text[j:],
            "over": text[:i] + piece + text[j:],
        }[how]
    return text


@st.composite
def bombs(draw: st.DrawFn) -> str:
    """Small YAML that grows: aliases of aliases, merged mappings, nesting, long numbers."""
    width, depth = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    kind = draw(
        st.sampled_from(("list", "map", "merge", "nest", "block", "number", "self", "stages", "flow"))
    )
    lines = ["merge_method: linear"]
    if kind in ("list", "map", "merge"):
        leaf = {"list": "[1, 2]", "map": "{x: 1}", "merge": "{x: 1}"}[kind]
        lines.append(f"a0: &a0 {leaf}")
        for i in range(1, depth):
            above = [f"*a{i - 1}"] * width
            made = {
                "list": f"[{', '.join(above)}]",
                "map": "{" + ", ".join(f"k{j}: {a}" for j, a in enumerate(above)) + "}",
                "merge": f"{{<<: [{', '.join(above)}]}}",
            }[kind]
            lines.append(f"a{i}: &a{i} {made}")
        lines.append(f"models: *a{depth - 1}")
    elif kind == "nest":
        lines.append("models: " + "[" * (depth * 25) + "]" * (depth * 25))
    elif kind == "flow":
        lines.append("parameters: " + "{x: " * (depth * 10) + "1" + "}" * (depth * 10))
    elif kind == "block":
        lines += ["  " * i + "x:" for i in range(depth * 10)]
    elif kind == "number":
        lines.append(
            "parameters: {t: " + draw(st.sampled_from(("9", "1:", "0x", "f", "1_"))) * (depth * 500) + "1}"
        )
    elif kind == "self":
        lines.append("models: &m [" + ", ".join(["*m"] * width) + "]")
    else:
        names = [f"s{i}" for i in range(depth * 10)]
        stages = [
            f"name: {n}\nmerge_method: linear\nmodels: [{{model: {names[i - 1] if i else 'one'}}}]\n"
            for i, n in enumerate(names)
        ]
        if draw(st.booleans()):
            stages.reverse()
        last = f"merge_method: linear\nmodels: [{{model: {names[-1]}}}]\n"
        return "---\n".join([*stages, last])
    return "\n".join(lines) + "\n"


@st.composite
def damaged_bytes(draw: st.DrawFn, original: bytes, head: int = 600) -> bytes:
    """``original`` with bytes flipped (mostly among the first ``head``), cut, put in, or zeroed."""
    data = bytearray(original)
    for _ in range(draw(st.integers(0, 4))):
        end = len(data) if draw(st.integers(0, 3)) == 0 else min(head, len(data))
        i = draw(st.integers(0, max(0, end - 1)))
        how = draw(st.sampled_from(("flip", "flip", "set", "cut", "put", "remove")))
        if how == "flip" and data:
            data[i] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            data[i : i + 8] = draw(st.binary(min_size=1, max_size=8))
        elif how == "cut":
            del data[i:]
        elif how == "put":
            data[i:i] = draw(st.binary(max_size=9))
        else:
            del data[i : i + draw(st.integers(1, 50))]
    return bytes(data)


def safetensors_bytes(header: Any, data: bytes) -> bytes:
    """A file with this header, right or wrong."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@st.composite
def headers(draw: st.DrawFn, original: dict[str, Any], size: int) -> dict[str, Any]:
    """The header of a safetensors file with odd dtypes, shapes, offsets and names."""
    header = copy.deepcopy(original)
    sizes = st.sampled_from(
        (0, 1, 2, 7, 32, 40, size, size + 1, -1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 10**30, 1.5)
    )
    kinds = st.sampled_from(
        ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "U64", "", "x")
    )
    names = st.sampled_from(
        (*ODD_TEXTS[:40], "model.layers.0.x", "model.layers.00.x", "model.layers.٣.x", "0.x")
    )
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(header)))
        entry = header[name]
        how = draw(
            st.sampled_from(("shape", "offsets", "dtype", "name", "remove", "twin", "odd", "zero", "long"))
        )
        if how == "shape" and isinstance(entry, dict):
            entry["shape"] = draw(st.lists(sizes, max_size=4))
        elif how == "offsets" and isinstance(entry, dict):
            entry["data_offsets"] = draw(st.lists(sizes, max_size=3))
        elif how == "dtype" and isinstance(entry, dict):
            entry["dtype"] = draw(kinds)
        elif how == "name":
            header[draw(names)] = header.pop(name)
        elif how == "remove" and len(header) > 1:
            del header[name]
        elif how == "twin":
            header[draw(names)] = copy.deepcopy(entry)
        elif how == "odd":
            header[name] = copy.deepcopy(draw(values.filter(_is_json)))
        elif how == "zero":
            shape = draw(st.permutations([0, draw(sizes), draw(sizes)]))
            header[draw(names)] = {"dtype": draw(kinds), "shape": shape, "data_offsets": [size, size]}
        else:
            header[f"model.layers.{'9' * draw(st.integers(1, 5000))}.x.weight"] = header.pop(name)
    return header


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


json_values = values.filter(_is_json)
