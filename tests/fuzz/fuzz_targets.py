"""What is fuzzed: each target takes inputs of a strategy, in a folder of its own beside three tiny models."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fuzz_inputs import (
    LORA_NAMES,
    MODELS,
    ODD_KEYS,
    ODD_TEXTS,
    RECIPES,
    VOCABULARIES,
    as_yaml,
    bombs,
    damaged,
    damaged_bytes,
    experiments,
    headers,
    json_values,
    recipes,
    safetensors_bytes,
    scalars,
    spaces,
    texts,
    vocabularies,
)
from hypothesis import strategies as st
from safetensors.torch import save
from support import LLAMA, llama_shapes, save_model
from tokenizer_support import bpe

from evomerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from evomerge.checkpoints.files import identity, weight_files
from evomerge.checkpoints.lora import adapt
from evomerge.checkpoints.lora_embeddings import Architecture, VocabularyTensors
from evomerge.checkpoints.references import locate, parse_reference
from evomerge.engine.inputs import Inputs
from evomerge.engine.sources import open_sources
from evomerge.errors import StudyError
from evomerge.recipe import SearchSpace, dump_recipe, load_recipe, parse_recipe, read_recipe, read_yaml
from evomerge.runs.experiment import Experiment
from evomerge.study.storage import open_storage, redact
from evomerge.tokenizers.vocabulary import load_tokenizer, vocabulary_of

__all__ = ["TARGETS", "Target", "Workshop"]

CONFIG = {
    **LLAMA,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 12,
}
LINEAR = parse_recipe(RECIPES[0])
STACK = parse_recipe(RECIPES[2])
SECRET = "hunter2"


class Workshop:
    """A folder with three tiny models, and a place for the files of one input at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.box = folder / "box"
        self.models = {name: _model(folder / name, i) for i, name in enumerate(MODELS)}
        self.checkpoints: dict[str, Checkpoint] = {n: open_checkpoint(p) for n, p in self.models.items()}
        self.empty()
        # Libraries make folders of their own when they are first used, and kernels are compiled.
        _plan(VOCABULARIES[1], self)
        _command(["merge", "BOX/r.yml", "BOX/out", "--threads", "1"], self)

    def empty(self) -> Path:
        """The place, with nothing in it."""
        shutil.rmtree(self.box, ignore_errors=True)
        self.box.mkdir()
        return self.box

    def copy_of(self, name: str) -> Path:
        """A model that may be damaged."""
        return Path(shutil.copytree(self.models[name], self.box / name))


def _model(folder: Path, seed: int) -> Path:
    made = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=made) for n, s in llama_shapes(CONFIG).items()}
    save_model(folder, tensors, CONFIG)
    bpe(["a+b"] if seed else [], chat_template="{{ messages }}").save_pretrained(str(folder))
    return folder


@dataclass(frozen=True)
class Target:
    """``run`` gets one of ``inputs``; ``weight`` is its share of all, ``tests`` its runs in the suite."""

    name: str
    inputs: Callable[[], st.SearchStrategy[Any]]
    run: Callable[[Any, Workshop], None]
    weight: float = 1.0
    tests: int = 200


# --------------------------------------------------------------------- documents


def _yaml(text: str, shop: Workshop) -> None:
    path = shop.box / "x.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_yaml, read_recipe):
        read(path)


def _recipe(document: Any, shop: Workshop) -> None:
    recipe = parse_recipe(document)
    recipe.inputs()
    renamed = recipe.with_references({m: f"./{m}" for m in MODELS})
    assert len(renamed.references()) <= len(recipe.references()) + len(MODELS)
    path = shop.box / "sub" / "r.yml"
    dump_recipe(recipe, path, ["x"])
    if "stages" not in recipe.document():
        assert load_recipe(path).key() == recipe.key()


def _recipe_file(text: str, shop: Workshop) -> None:
    path = shop.box / "r.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    load_recipe(path).key()


def _space(document: Any, shop: Workshop) -> None:
    space = SearchSpace(document)
    space.references()
    for share in (0.0, 0.37, 1.0):
        vector = [d.span[0] + share * (d.span[1] - d.span[0]) for d in space.dimensions]
        values = space.decode(vector)
        for d in space.dimensions:
            value = values[d.name]
            assert value in d.choices if d.choices else d.low <= value <= d.high, (d, value)  # type: ignore[operator]
        for encoded, d in zip(space.encode(values), space.dimensions, strict=True):
            assert d.span[0] <= encoded <= d.span[1] or d.kind == "float"
    space.fill(space.decode(space.start()))


def _experiment(given: Any, shop: Workshop) -> None:
    document, overrides = given
    path = shop.box / "e.yml"
    path.write_bytes(as_yaml(document).encode("utf-8", "surrogatepass"))
    for name in MODELS:
        (shop.box / name).mkdir()
    experiment = Experiment.load(path, overrides)
    assert experiment.folder.is_absolute()
    assert experiment.storage
    experiment.sampler()
    experiment.baselines()
    json.dumps(experiment.document({}))
    experiment.space.fill(experiment.space.decode(experiment.space.start())).with_references(
        experiment.references
    ).key()


_overrides = st.dictionaries(
    st.sampled_from(
        ("search.trials", "name", "storage", "search.seed", "output.dir", "workers.count", "a.b")
    ),
    scalars.filter(lambda v: not isinstance(v, bytes)),
    max_size=2,
)

# --------------------------------------------------------------------- plans


def _plan(document: Any, shop: Workshop) -> None:
    recipe = parse_recipe(document)
    plan = Inputs(shop.checkpoints, truncate_embeddings=len(recipe.key()) % 2 == 0).plan(recipe)
    assert plan.tensors
    for tensor in plan.tensors:
        assert all(i.tensor in plan.checkpoints[i.model].tensors for i in tensor.inputs)


def _references(text: str, shop: Workshop) -> None:
    (shop.box / "below").mkdir()
    reference = parse_reference(text)
    assert str(parse_reference(str(reference))) == str(reference)
    folders = (shop.box, shop.folder)
    file = reference.recipe_file(folders)
    assert file is None or file.suffix in (".yml", ".yaml")
    assert locate(reference.model, reference.revision, folders).is_dir()
    open_sources({"x": text}, folders)


@st.composite
def _reference_texts(draw: st.DrawFn) -> str:
    parts = st.sampled_from((*MODELS, *ODD_TEXTS, ".", "below", "org", "lora", "r.yml")) | st.text(max_size=6)
    joints = st.sampled_from(("", "/", "@", "+", "/../", "@../", "//", "\\", ":"))
    text = draw(parts)
    for _ in range(draw(st.integers(0, 3))):
        text += draw(joints) + draw(parts)
    return text


# --------------------------------------------------------------------- model folders


def _opened(folder: Path, shop: Workshop) -> None:
    """Opens a damaged model, plans with it, and reads what the plan would read."""
    identity(folder)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.bytes >= 0
    pool = {**shop.checkpoints, "one": checkpoint}
    for recipe in (LINEAR, STACK):
        plan = Inputs(pool).plan(recipe)
        json.dumps(dict(plan.config))
    for name, info in checkpoint.tensors.items():
        tensor = checkpoint.read(name)
        assert tuple(tensor.shape) == info.shape
        assert tensor.dtype == info.dtype


def _weights(data: bytes, shop: Workshop) -> None:
    folder = shop.copy_of("one")
    (folder / "model.safetensors").write_bytes(data)
    _opened(folder, shop)


def _header(header: Any, shop: Workshop) -> None:
    _, tail = _file()
    _weights(safetensors_bytes(header, tail), shop)


@cache
def _file() -> tuple[dict[str, Any], bytes]:
    tensors = {n: torch.full(s, 0.5) for n, s in llama_shapes(CONFIG).items()}
    data = save(tensors, metadata={"format": "pt"})
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def _index(document: Any, shop: Workshop) -> None:
    folder = shop.copy_of("one")
    (shop.box / "secret.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert all(file.parent == folder for file in weight_files(folder))
    _opened(folder, shop)


def _index_documents() -> st.SearchStrategy[Any]:
    names = dict.fromkeys(llama_shapes(CONFIG), "shard.safetensors")
    odd = st.sampled_from(
        (
            "../secret.safetensors",
            "/etc/passwd",
            "shard.safetensors",
            ".",
            "..",
            "../one/shard.safetensors",
            "config.json",
            "x\0",
        )
    )
    return damaged(st.just({"metadata": {}, "weight_map": names}), odd=odd | json_values) | json_values


def _config(document: Any, shop: Workshop) -> None:
    folder = shop.copy_of("one")
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    _opened(folder, shop)


_by_layer: dict[str, Any] = {
    "layer_types": ["full_attention"] * 3,
    "layers_block_pattern": "abc",
    "sliding_layers": [0, 2],
    "attention_types": [[["global", "local"], 1], [["global"], 1]],
    "layer_settings": {"0": 1, "2": 3},
    "first_k_dense_replace": 1,
    "last_layer": 2,
    "text_config": {"num_hidden_layers": 3, "vocab_size": 12},
    "quantization_config": None,
}


def _configs() -> st.SearchStrategy[Any]:
    odd = json_values | st.sampled_from(
        ([[["a"], 10**9]], [[["a", "b"], 1], [["c"], 1]], {"²": 1}, {"0": 1, "1": 2}, "abc", [0, 1, 2], 3, 2)
    )
    nested = st.integers(1, 3000).map(lambda n: '{"a":' * n + "1" + "}" * n)
    return damaged(st.just({**CONFIG, **_by_layer}), most=4, odd=odd) | nested | st.text(max_size=20)


def _adapter(given: Any, shop: Workshop) -> None:
    config, header = given
    folder = shop.box / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(json.dumps(config).encode())
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(header, bytes(_adapter_file()[1])))
    identity(folder)
    embeddings = ("model.embed_tokens.weight", "lm_head.weight")
    architecture = Architecture(vocabulary=lambda: VocabularyTensors(embeddings))
    model = adapt(shop.checkpoints["one"], folder, architecture)
    Inputs({**shop.checkpoints, "one": model}).plan(LINEAR)
    for name, info in model.tensors.items():
        assert tuple(model.read(name).shape) == info.shape


@cache
def _adapter_file() -> tuple[dict[str, Any], int]:
    header: dict[str, Any] = {}
    end = 0
    shapes = llama_shapes(CONFIG)
    for name in LORA_NAMES:
        rows, columns = shapes[f"{name}.weight"]
        parts: dict[str, tuple[int, ...]] = {"lora_A.weight": (2, columns), "lora_B.weight": (rows, 2)}
        if name.endswith("q_proj"):
            parts["lora_magnitude_vector"] = (rows,)
        if name == "model.embed_tokens":
            parts = {"lora_embedding_A": (2, rows), "lora_embedding_B": (columns, 2)}
        if name == "lm_head":
            parts = {"token_adapter.trainable_tokens_delta": (2, columns)}
        for part, shape in parts.items():
            size = 4 * math.prod(shape)
            header[f"base_model.model.{name}.{part}"] = {
                "dtype": "F32",
                "shape": list(shape),
                "data_offsets": [end, end + size],
            }
            end += size
    return header, end


def _adapters() -> st.SearchStrategy[Any]:
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.*up_proj": 3},
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"lm_head": [0, 3]},
        "modules_to_save": ["lm_head"],
        "ensure_weight_tying": False,
        "init_lora_weights": True,
    }
    patterns = st.sampled_from(
        ("(a+)+$", "(", "([a-z_.0-9]+)*!", "(.*)*(.*)*x", "[a-z.]*[a-z.]*[a-z.]*[a-z.]*!", "q_proj")
    )
    odd = st.one_of(
        json_values, st.dictionaries(patterns, st.sampled_from((0, -1, 2, "x", None, 10**400)), max_size=2)
    )
    header, size = _adapter_file()
    return st.tuples(damaged(st.just(config), odd=odd), headers(header, size))


# --------------------------------------------------------------------- tokenizers


def _tokenizer_files(given: Any, shop: Workshop) -> None:
    name, text, number = given
    folder = shop.copy_of("one")
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    pool = {**shop.checkpoints, "one": open_checkpoint(folder)}
    Inputs(pool).plan(LINEAR)
    Inputs(pool).plan(parse_recipe(VOCABULARIES[number]))
    assert vocabulary_of(load_tokenizer(folder)).size >= 0


@st.composite
def _tokenizers(draw: st.DrawFn) -> Any:
    name = draw(
        st.sampled_from(("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"))
    )
    number = draw(st.integers(0, len(VOCABULARIES) - 1))
    if name == "chat_template.jinja":
        return name, draw(st.binary(max_size=20)), number
    document = _tokenizer_documents()[name]
    if draw(st.booleans()):
        return name, draw(damaged_bytes(json.dumps(document).encode(), head=10**6)), number
    odd = json_values | st.sampled_from((2**32 - 1, 10**7, 2**31, {"a": 10**9}, [["a", 1]]))
    return name, json.dumps(draw(damaged(st.just(document), odd=odd))), number


@cache
def _tokenizer_documents() -> dict[str, Any]:
    fast = bpe(["a+b"])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "chat_template": [{"name": "default", "template": "{{ messages }}"}],
        "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]},
        "model_max_length": 64,
    }
    return {
        "tokenizer.json": json.loads(fast.backend_tokenizer.to_str()),
        "tokenizer_config.json": settings,
    }


# --------------------------------------------------------------------- the command line and storage


def _command(arguments: list[str], shop: Workshop) -> None:
    from typer.testing import CliRunner

    from evomerge.cli.main import app

    (shop.box / "r.yml").write_text(
        as_yaml({"merge_method": "passthrough", "models": [{"model": str(shop.models["one"])}]})
    )
    (shop.box / "runs" / "x").mkdir(parents=True)
    (shop.box / "runs" / "x" / "run.json").write_text('{"study": "x", "storage": "study.db"}')
    given = [a.replace("BOX", str(shop.box)) for a in arguments]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code in (0, 2), result.output
    assert result.output.strip()


@st.composite
def _commands(draw: st.DrawFn) -> list[str]:
    words = st.sampled_from((*ODD_TEXTS, *ODD_KEYS)).filter(lambda t: len(t) < 400) | st.text(max_size=8)
    sizes = st.one_of(
        st.from_regex(r"[0-9.]{0,6} ?[a-zA-Z]{0,3}", fullmatch=True),
        st.sampled_from(
            ("9" * 400 + "GB", "9" * 5000, "1e400", "٣GB", "0.0001B", "5GB", "1", "", "-1GB", "1" * 30 + "GB")
        ),
    )
    kind = draw(
        st.sampled_from(
            ("methods", "init", "status", "export", "check", "merge", "merge", "dtype", "device", "threads")
        )
    )
    word = draw(words)
    return {
        "methods": ["methods", word],
        "init": ["init", word, "-o", "BOX/new.yml"],
        "status": ["status", word],
        "export": ["export", word, "-o", "BOX/best.yml"],
        "check": ["check", word],
        "merge": ["merge", "BOX/r.yml", "BOX/out", "--threads", "1", f"--shard-size={draw(sizes)}"],
        "dtype": ["merge", "BOX/r.yml", "BOX/out", "--threads", "1", f"--dtype={word}"],
        "device": ["merge", "BOX/r.yml", "BOX/out", "--threads", "1", f"--device={word}"],
        "threads": ["merge", word, "BOX/out", "--threads", "1"],
    }[kind]


def _storage(url: str, shop: Workshop) -> None:
    assert SECRET not in redact(url)
    try:
        open_storage(url.replace("BOX", str(shop.box)), create=False).close()
    except StudyError as exception:
        if SECRET in str(exception):
            raise AssertionError(f"the password is told: {exception}") from None
        raise


@st.composite
def _urls(draw: st.DrawFn) -> str:
    """Storage URLs with a password somewhere; none that would reach a server."""
    kind = draw(
        st.sampled_from(
            (
                "sqlite",
                "journal",
                "postgresql+nodriver",
                "mysql",
                "redis",
                "",
                "sqlite+x",
                "x y",
                "postgresql+psycopg2",
            )
        )
    )
    odd = st.text(max_size=4) | st.sampled_from(("@", ":", "/", "%40", "?", "#", "[", "]", "\0", "%", "é"))
    user, host, port = draw(odd), draw(odd), draw(st.sampled_from(("", ":1", ":x", ":99999999", ":-1")))
    form = draw(st.sampled_from(("at", "at", "at", "query", "file")))
    if form == "file" or kind == "journal":
        return f"{kind}:///BOX/{draw(odd)}"
    if form == "query":
        key = draw(st.sampled_from(("password", "sslpassword", "PASSWORD")))
        return f"{kind}://{host}{port}/db?{key}={SECRET}"
    user = user.replace(":", "").replace("/", "")
    return f"{kind}://{user}:{draw(odd)}{SECRET}{draw(odd)}@{host}{port}/{draw(odd)}"


TARGETS = (
    Target("yaml", lambda: texts(recipes | spaces | experiments) | bombs(), _yaml, 1.5),
    Target("recipe", lambda: recipes | spaces, _recipe, 2),
    Target("recipe_file", lambda: texts(recipes) | bombs() | _several(), _recipe_file, 1.5),
    Target("space", lambda: spaces, _space, 2),
    Target("experiment", lambda: st.tuples(experiments, _overrides), _experiment, 1.5),
    Target("plan", lambda: recipes, _plan, 1.5),
    Target("vocabulary", lambda: vocabularies, _plan, 0.3, 40),
    Target("weights", lambda: damaged_bytes(safetensors_bytes(*_file())), _weights, 1.5),
    Target("header", lambda: headers(_file()[0], len(_file()[1])), _header, 1.5),
    Target("index", _index_documents, _index, 1),
    Target("config", _configs, _config, 1.5),
    Target("adapter", _adapters, _adapter, 1.5),
    Target("tokenizer_files", _tokenizers, _tokenizer_files, 0.3, 40),
    Target("reference", _reference_texts, _references, 1.5),
    Target("command", _commands, _command, 0.4, 60),
    Target("storage", _urls, _storage, 1),
)


def _several() -> st.SearchStrategy[str]:
    """Files of several documents."""
    return st.lists(damaged(st.sampled_from(RECIPES), most=2), min_size=2, max_size=4).map(_documents)


def _documents(made: list[Any]) -> str:
    named = []
    for i, document in enumerate(copy.deepcopy(made)):
        if isinstance(document, dict) and i + 1 < len(made):
            document.setdefault("name", MODELS[i % len(MODELS)] if i % 2 else f"stage{i}")
        named.append(as_yaml(document))
    return "---\n".join(named)
