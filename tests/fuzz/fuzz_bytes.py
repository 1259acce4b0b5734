"""Targets for a fuzzer that is led by coverage: whole files as bytes, each with files to begin from."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_inputs import EXPERIMENT, MODELS, ODD_TEXTS, RECIPES, SPACES, VOCABULARIES, as_yaml
from fuzz_targets import CONFIG, Workshop

from evomerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from evomerge.checkpoints.files import identity
from evomerge.engine.inputs import Inputs
from evomerge.recipe import SearchSpace, dump_recipe, load_recipe, parse_recipe, read_yaml
from evomerge.runs.experiment import Experiment
from evomerge.study.study import Study

__all__ = ["BYTE_TARGETS", "ByteTarget", "damaged_json"]


@dataclass(frozen=True)
class ByteTarget:
    """``run`` reads a file with the bytes it gets; ``seeds`` are files that are as they should be.

    ``json`` says that lines of the file are JSON, which blind changes of bytes would only break.
    """

    run: Callable[[bytes, Workshop], None]
    seeds: Callable[[Workshop], list[bytes]]
    json: bool = False


def damaged_json(data: bytes, chance: random.Random) -> bytes | None:
    """``data`` with one value in one of its lines of JSON changed, moved or gone; None if it has none."""
    lines = data.split(b"\n")
    number = chance.choice([i for i, line in enumerate(lines) if line] or [0])
    try:
        document = json.loads(lines[number])
    except (ValueError, RecursionError):
        return None
    places = list(_places(document, []))
    if not places:
        return None
    parent, key = chance.choice(places)
    other, other_key = chance.choice(places)
    kind = chance.randrange(5)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = copy.deepcopy(other[other_key])
    elif kind == 2 and isinstance(parent, dict):
        parent[chance.choice(ODD_TEXTS)] = parent.pop(key)
    elif kind == 3 and isinstance(parent[key], int | float):
        parent[key] += chance.choice((-1, 1, 8, -(2**31), 2**63, 0.5))
    else:
        parent[key] = chance.choice(_ODD)
    lines[number] = json.dumps(document).encode()
    return b"\n".join(lines)


def _places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        found.append((node, key))
        _places(node[key], found)
    return found


_ODD: tuple[Any, ...] = (None, True, 0, -1, 2**64, 1e308, "", "x", [], {}, [[]], {"a": None}, *ODD_TEXTS)


def _recipe(data: bytes, shop: Workshop) -> None:
    path = shop.box / "r.yml"
    path.write_bytes(data)
    recipe = load_recipe(path)
    if not recipe.stages:  # it comes back from what is written of it
        dump_recipe(recipe, path)
        assert load_recipe(path).key() == recipe.key()


def _space(data: bytes, shop: Workshop) -> None:
    path = shop.box / "s.yml"
    path.write_bytes(data)
    space = SearchSpace(read_yaml(path))
    for share in (0.0, 0.37, 1.0):
        vector = [d.span[0] + share * (d.span[1] - d.span[0]) for d in space.dimensions]
        space.encode(space.decode(vector))
    space.fill(space.decode(space.start())).key()


def _experiment(data: bytes, shop: Workshop) -> None:
    path = shop.box / "e.yml"
    path.write_bytes(data)
    for name in MODELS:
        (shop.box / name).mkdir()
    experiment = Experiment.load(path)
    experiment.baselines()
    json.dumps(experiment.document({}))


def _vocabulary(data: bytes, shop: Workshop) -> None:
    path = shop.box / "r.yml"
    path.write_bytes(data)
    Inputs(shop.checkpoints).plan(load_recipe(path))


def _weights(data: bytes, shop: Workshop) -> None:
    folder = shop.box / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(json.dumps(CONFIG).encode())
    (folder / "model.safetensors").write_bytes(data)
    identity(folder)
    _read(open_checkpoint(folder))


def _header(data: bytes, shop: Workshop) -> None:
    """The header alone: whoever changes it blindly never keeps its length right."""
    tail = _parts(shop)[1]
    _weights(len(data).to_bytes(8, "little") + data + tail, shop)


def _parts(shop: Workshop) -> tuple[bytes, bytes]:
    data = (shop.models["one"] / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], data[end:]


def _index(data: bytes, shop: Workshop) -> None:
    folder = shop.box / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(json.dumps(CONFIG).encode())
    (folder / "shard.safetensors").symlink_to(shop.models["one"] / "model.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(data)
    _read(open_checkpoint(folder))


def _read(checkpoint: Checkpoint) -> None:
    for name, info in checkpoint.tensors.items():
        assert tuple(checkpoint.read(name).shape) == info.shape


def _tokenizer(data: bytes, shop: Workshop) -> None:
    folder = shop.copy_of("one")
    (folder / "tokenizer.json").write_bytes(data)
    pool = {**shop.checkpoints, "one": open_checkpoint(folder)}
    Inputs(pool).plan(parse_recipe(VOCABULARIES[1]))


def _journal(data: bytes, shop: Workshop) -> None:
    path = shop.box / "study.log"
    path.write_bytes(data)
    with Study.open(f"journal:///{path}", "s") as study:
        study.snapshot()
        study.best()
    with Study.open(f"journal:///{path}", "s", document=study.document) as study:
        study.snapshot()


def _journals(shop: Workshop) -> list[bytes]:
    from evomerge.fitness.scores import ItemScore, Scores, Split, TaskScore
    from evomerge.study.study import SplitResult, Trial

    path = shop.empty() / "study.log"
    with Study.open(f"journal:///{path}", "s", document={"a": [1, {"b": None}]}) as study:
        task = TaskScore("t", "acc", 0.5, True, "mean", (ItemScore("i", 1.0), ItemScore("j", 0.0)))  # noqa: FBT003
        scores = Scores(Split.SEARCH, (task,))
        study.record(Trial("baseline", "base", -1, 0, "d"))
        study.record(Trial("candidate", "g0.0", 0, 0, "e", (0.5,), {"w": 0.5}, (0.5,), scores))
        study.record_split(1, Split.TEST, SplitResult(scores))
    return [path.read_bytes()]


def _yamls(documents: Sequence[object]) -> Callable[[Workshop], list[bytes]]:
    return lambda _: [as_yaml(document).encode() for document in documents]


def _tokenizers(shop: Workshop) -> list[bytes]:
    """On one line."""
    text = (shop.models["one"] / "tokenizer.json").read_bytes()
    return [json.dumps(json.loads(text)).encode()]


def _file(name: str) -> Callable[[Workshop], list[bytes]]:
    return lambda shop: [Path(shop.models["one"] / name).read_bytes()]


BYTE_TARGETS = {
    "recipe": ByteTarget(_recipe, _yamls(RECIPES)),
    "space": ByteTarget(_space, _yamls(SPACES)),
    "experiment": ByteTarget(_experiment, _yamls((EXPERIMENT,))),
    "vocabulary": ByteTarget(_vocabulary, _yamls(VOCABULARIES)),
    "weights": ByteTarget(_weights, _file("model.safetensors")),
    "header": ByteTarget(_header, lambda shop: [_parts(shop)[0]], json=True),
    "index": ByteTarget(
        _index,
        lambda shop: [
            json.dumps(
                {
                    "metadata": {},
                    "weight_map": dict.fromkeys(shop.checkpoints["one"].tensors, "shard.safetensors"),
                }
            ).encode()
        ],
        json=True,
    ),
    "tokenizer": ByteTarget(_tokenizer, _tokenizers, json=True),
    "journal": ByteTarget(_journal, _journals, json=True),
}
