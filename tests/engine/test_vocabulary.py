"""Models of different vocabularies: embeddings by token, ids in the configuration, in memory as on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import LLAMA, llama_shapes, save_model
from tokenizer_support import bpe, save
from tokenizers import AddedToken
from torch import Tensor

from evomerge.backends.transformers_model import TransformersModel
from evomerge.engine.export import MergeOptions, MergeResult, merge_to_disk
from evomerge.engine.inputs import Inputs
from evomerge.engine.sources import open_sources
from evomerge.errors import CheckpointError, RecipeError
from evomerge.recipe import parse_recipe
from evomerge.tokenizers.vocabulary import has_tokenizer, load_tokenizer, vocabulary_of

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


class Models:
    """Models with tokenizers of their own, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self, name: str, tokenizer: Any, *, rows: int | None = None, dtype: torch.dtype = torch.float32
    ) -> Path:
        size = rows or len(tokenizer)
        config = {
            **LLAMA,
            "vocab_size": size,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "dtype": str(dtype).removeprefix("torch."),
        }
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        tensors = {n: torch.randn(s, generator=generator).to(dtype) for n, s in llama_shapes(config).items()}
        path = save(tokenizer, save_model(self.folder / name, tensors, config))
        generation = {"eos_token_id": [tokenizer.eos_token_id], "do_sample": True}
        (path / "generation_config.json").write_text(json.dumps(generation))
        return path

    def rows(self, name: str, tensor: str = EMBEDDINGS[0]) -> dict[str, Tensor]:
        """Embedding of each token."""
        folder = self.folder / name
        weights = load_file(folder / "model.safetensors")[tensor]
        ids = vocabulary_of(load_tokenizer(folder)).ids
        return {token: weights[i].float() for token, i in ids.items() if i < len(weights)}

    def merge(self, document: dict[str, Any], **options: Any) -> MergeResult:
        recipe = parse_recipe(document)
        sources = open_sources({r: r for r in recipe.references()}, (self.folder,))
        return merge_to_disk(recipe, sources, self.folder / "out", MergeOptions(overwrite=True, **options))


@pytest.fixture
def models(tmp_path: Path) -> Models:
    made = Models(tmp_path)
    made.add("base", bpe(["a+b", "c+d"]))
    made.add("chat", bpe(["e+f", "a+b", "g+h"], ["</s>", "<|im_start|>", "<|im_end|>"], chat_template="talk"))
    made.add("code", bpe(["a+b", "c+d"], ["</s>", "<|im_start|>"], chat_template="talk"), rows=16)
    return made


def linear(**more: Any) -> dict[str, Any]:
    weights = {"base": 0.5, "chat": 0.3, "code": 0.2}
    listed = [{"model": m, "parameters": {"weight": w}} for m, w in weights.items()]
    return {"merge_method": "linear", "base_model": "base", "models": listed, "dtype": "float32"} | more


@pytest.mark.parametrize("tensor", EMBEDDINGS)
def test_union_merges_rows_of_the_same_token(models: Models, tensor: str) -> None:
    models.merge(linear(tokenizer_source="union"))
    base, chat, code, out = (models.rows(m, tensor) for m in ("base", "chat", "code", "out"))
    assert out.keys() == base.keys() | chat.keys() | code.keys()
    for token, row in out.items():
        if token in base:  # the base serves whoever lacks a token
            parts = [m.get(token, base[token]) for m in (base, chat, code)]
        elif token == "<|im_start|>":  # two have it, the base does not: the base gets their mean
            parts = [(chat[token] + code[token]) / 2, chat[token], code[token]]
        else:
            parts = [chat[token]] * 3
        expected = 0.5 * parts[0] + 0.3 * parts[1] + 0.2 * parts[2]
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-6)


def test_the_configuration_follows_the_vocabulary(models: Models) -> None:
    models.merge(linear(tokenizer_source="chat"))
    out = models.folder / "out"
    config = json.loads((out / "config.json").read_text())
    tokenizer = load_tokenizer(out)
    assert tokenizer.get_vocab() == load_tokenizer(models.folder / "chat").get_vocab()
    assert config["vocab_size"] == len(tokenizer)
    assert config["eos_token_id"] == tokenizer.eos_token_id
    base = json.loads((models.folder / "base" / "config.json").read_text())
    assert base["eos_token_id"] != config["eos_token_id"]
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [tokenizer.eos_token_id], "do_sample": True}


def test_every_configuration_of_the_text_decoder_follows(models: Models) -> None:
    file = models.folder / "base" / "config.json"
    config = json.loads(file.read_text())
    parts = {"text_config": {"vocab_size": config["vocab_size"]}, "audio_config": {"vocab_size": 7}}
    file.write_text(json.dumps(config | {"thinker_config": parts, "language_config": {"vocab_size": 1}}))
    models.merge(linear(tokenizer_source="chat"))
    out = json.loads((models.folder / "out" / "config.json").read_text())
    size = len(load_tokenizer(models.folder / "chat"))
    assert out["vocab_size"] == size
    assert out["thinker_config"] == {"text_config": {"vocab_size": size}, "audio_config": {"vocab_size": 7}}
    assert out["language_config"] == {"vocab_size": size}


def test_the_base_vocabulary_drops_tokens_of_others(models: Models) -> None:
    models.merge(linear(tokenizer_source="base"))
    assert models.rows("out").keys() == models.rows("base").keys()
    assert (models.folder / "out" / "tokenizer.json").read_bytes() == (
        models.folder / "base" / "tokenizer.json"
    ).read_bytes()


def test_padding_rows_are_the_mean_of_the_rest(models: Models) -> None:
    models.merge(linear(tokenizer={"source": "base", "pad_to_multiple_of": 8}))
    weights = load_file(models.folder / "out" / "model.safetensors")[EMBEDDINGS[0]]
    count = len(vocabulary_of(load_tokenizer(models.folder / "base")).ids)
    assert weights.shape[0] == 16 > count
    for row in weights[count:]:
        torch.testing.assert_close(row, weights[:count].mean(dim=0), rtol=1e-5, atol=1e-6)


def test_tokens_can_be_given_a_source_and_forced(models: Models) -> None:
    rules = {
        "<|im_start|>": {"source": "chat"},
        "<|im_end|>": {"source": {"kind": "zero"}},
        "ab": {"source": {"kind": "model_token", "model": "code", "token": "cd"}, "force": True},
        "<|new|>": {"source": {"kind": "model_token", "model": "chat", "token_id": 0}},
    }
    models.merge(linear(tokenizer={"source": "union", "tokens": rules}))
    base, chat, code, out = (models.rows(m) for m in ("base", "chat", "code", "out"))
    torch.testing.assert_close(out["ab"], code["cd"])
    torch.testing.assert_close(out["<|new|>"], chat["a"])
    torch.testing.assert_close(out["<|im_end|>"], 0.3 * chat["<|im_end|>"])
    torch.testing.assert_close(out["<|im_start|>"], 0.8 * chat["<|im_start|>"] + 0.2 * code["<|im_start|>"])
    assert base["ab"] is not None


@pytest.mark.parametrize("source", ["union", "base", "code"])
def test_each_tokenizer_is_read_once(models: Models, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    read: list[str] = []
    loader = AutoTokenizer.from_pretrained

    def counted(folder: str, **options: Any) -> Any:
        read.append(Path(folder).name)
        return loader(folder, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    models.merge(linear(tokenizer={"source": source, "tokens": {"<|new|>": {}}}))
    assert [name for name in read if name in ("base", "chat", "code")] == ["base", "chat", "code"]
    assert len(read) <= 4  # the union, once


@pytest.mark.parametrize("source", ["union", "base"])
def test_tokens_of_ones_own_have_the_ids_that_the_written_tokenizer_gives_them(
    models: Models, source: str
) -> None:
    rules = {"<|new|>": {"source": {"kind": "model_token", "model": "chat", "token_id": 0}}}
    models.merge(linear(tokenizer={"source": source, "tokens": rules}))
    written = load_tokenizer(models.folder / "out")
    row = load_file(models.folder / "out" / "model.safetensors")[EMBEDDINGS[0]][
        written.get_vocab()["<|new|>"]
    ]
    torch.testing.assert_close(row, models.rows("chat")["a"])
    assert written.tokenize("ab<|new|>cd") == ["ab", "<|new|>", "cd"]
    assert "<|new|>" not in load_tokenizer(models.folder / "base").get_vocab()


def test_a_token_that_only_an_expert_has_keeps_its_row_in_a_task_vector_merge(models: Models) -> None:
    experts = [{"model": m, "parameters": {"weight": 0.7}} for m in ("chat", "code")]
    models.merge(
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": experts,
            "tokenizer_source": "union",
        }
    )
    torch.testing.assert_close(models.rows("out")["ef"], models.rows("chat")["ef"])


@pytest.mark.parametrize("source", ["union", "base", "code"])
def test_memory_and_disk_agree_and_so_do_their_tokenizers(models: Models, source: str) -> None:
    document = linear(
        tokenizer={"source": source, "pad_to_multiple_of": 4}, chat_template="chatml", dtype="bfloat16"
    )
    result = models.merge(document)
    recipe = parse_recipe(document)
    live = TransformersModel(open_sources({r: r for r in recipe.references()}, (models.folder,)))
    assert live.load(recipe) == result.fingerprint
    assert live.load(recipe) == result.fingerprint  # what is kept between candidates stays valid
    assert live.tokenizer.get_vocab() == load_tokenizer(models.folder / "out").get_vocab()
    assert "im_start" in live.tokenizer.chat_template
    other = live.load(parse_recipe(document | {"tokenizer": None, "tokenizer_source": "chat"}))
    assert other != result.fingerprint
    assert live.load(recipe) == result.fingerprint
    live.close()


def test_the_template_that_most_models_have_is_taken_over(models: Models) -> None:
    models.merge(linear(tokenizer_source="base", chat_template="auto"))
    assert load_tokenizer(models.folder / "out").chat_template == "talk"


def test_a_tied_head_counts_as_the_embedding_on_the_rows_of_a_common_vocabulary(
    models: Models, tmp_path: Path
) -> None:
    tied = models.add("tied", bpe(["a+b"]))
    config = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": True}
    tensors = load_file(tied / "model.safetensors")
    del tensors["lm_head.weight"]
    save_model(tied, tensors, config)
    config = json.loads((tmp_path / "chat" / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "chat" / "config.json").write_text(json.dumps(config))
    document = linear(tokenizer_source="union")
    document["models"] = [{"model": m, "parameters": {"weight": 0.5}} for m in ("chat", "tied")]
    models.merge(document | {"base_model": "tied"})
    chat, embedding = models.rows("chat", "lm_head.weight"), models.rows("tied")
    merged = models.rows("out", "lm_head.weight")
    shared = chat.keys() & embedding.keys()
    assert shared
    for token in shared:
        assert torch.allclose(merged[token], (chat[token] + embedding[token]) / 2), token
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_unequal_embeddings_without_a_section_name_the_cure(models: Models) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)2 tensors differ in shape.*need a tokenizer section"):
        models.merge(linear())


def test_embeddings_can_be_cut_to_what_all_have(models: Models) -> None:
    result = models.merge(linear(), truncate_embeddings=True)
    assert any("code: lm_head.weight, model.embed_tokens.weight cut from 16 to" in w for w in result.warnings)
    size = len(vocabulary_of(load_tokenizer(models.folder / "base")).ids)
    out = load_file(models.folder / "out" / "model.safetensors")
    assert out[EMBEDDINGS[0]].shape[0] == size
    assert json.loads((models.folder / "out" / "config.json").read_text())["vocab_size"] == size


@pytest.mark.parametrize(
    ("method", "parameters"), [("ties", {"weight": 1, "normalize": False}), ("slerp", {"t": 0.25})]
)
def test_a_base_with_more_rows_is_cut_to_those_of_the_others(
    models: Models, method: str, parameters: dict[str, Any]
) -> None:
    document = {"merge_method": method, "base_model": "code", "tokenizer": None, "parameters": parameters}
    result = models.merge(document | {"models": [{"model": "base"}]}, truncate_embeddings=True)
    assert any(
        "code: lm_head.weight, model.embed_tokens.weight cut from 16 to 12" in w for w in result.warnings
    )
    out, base, code = (
        load_file(models.folder / name / "model.safetensors") for name in ("out", "base", "code")
    )
    for name in EMBEDDINGS:
        rows = code[name][:12]
        assert out[name].shape == base[name].shape == rows.shape
        if method == "ties":
            assert torch.allclose(out[name], base[name], atol=1e-6)
        else:
            cos = torch.dot(rows.flatten(), base[name].flatten()) / (rows.norm() * base[name].norm())
            angle = torch.arccos(cos)
            expected = torch.sin(0.75 * angle) * rows + torch.sin(0.25 * angle) * base[name]
            assert torch.allclose(out[name], expected / torch.sin(angle), atol=1e-6)


def test_equal_sizes_with_other_tokens_are_worth_a_warning(models: Models) -> None:
    models.add("other", bpe(["e+f", "g+h"]))
    document = linear(models=[{"model": m, "parameters": {"weight": 1}} for m in ("base", "other")])
    result = models.merge(document)
    assert len(result.warnings) == 1
    assert "the vocabulary of other is not that of base (2 tokens more, 2 fewer" in result.warnings[0]
    models.add("same", bpe(["a+b", "c+d"]))
    document["models"] = [{"model": m, "parameters": {"weight": 1}} for m in ("base", "same")]
    assert models.merge(document).warnings == ()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"source": "base", "tokens": {"ab": {"source": "chta"}}}, r"there is no model 'chta'.*'chat'"),
        ({"source": "base", "tokens": {"ab": {"force": True}}}, r"tokens\.ab: 'force' needs a 'source'"),
        ({"source": "base", "tokens": {"zz": {"source": "chat"}}}, r"'chat' has no token 'zz'"),
        (
            {"tokens": {"ab": {"source": {"kind": "model_token", "model": "chat", "token_id": 99}}}},
            "has 15 rows, so none is number 99",
        ),
        (
            {"tokens": {"ab": {"source": {"kind": "model_token", "model": "chat"}}}},
            "one of 'token' and 'token_id'",
        ),
        ({"source": "base", "pad_to_multiple_of": 0}, "pad_to_multiple_of.*greater than or equal to 1"),
        ({"source": "base", "tokns": {}}, r"tokenizer\.tokns.*Did you mean 'tokens'"),
    ],
)
def test_a_section_that_is_wrong_is_one_clear_message(
    models: Models, section: dict[str, Any], message: str
) -> None:
    inputs = Inputs(open_sources({m: m for m in ("base", "chat", "code")}, (models.folder,)))
    with pytest.raises((RecipeError, CheckpointError), match=message):
        inputs.plan(parse_recipe(linear(tokenizer=section)))


@pytest.mark.parametrize(
    ("source", "first", "second"),
    [
        ("union", "base", "wide"),
        ("union", "wide", "base"),
        ("base", "wide", "base"),
        ("wide", "base", "wide"),
    ],
)
def test_tokens_beyond_the_rows_of_every_model_are_left_out(
    models: Models, source: str, first: str, second: str
) -> None:
    rows = len(models.rows("base"))
    models.add("wide", bpe(["a+b", "c+d"], ["</s>", "<|x|>", "<|y|>"]), rows=rows)
    document = linear(base_model=first, tokenizer_source=source)
    document["models"] = [{"model": m, "parameters": {"weight": 0.5}} for m in (first, second)]
    result = models.merge(document)
    (warning,) = result.warnings
    assert warning == "2 tokens are beyond the rows of the embeddings and left out: '<|x|>', '<|y|>'"
    written = load_tokenizer(models.folder / "out")
    assert written.get_vocab() == load_tokenizer(models.folder / "base").get_vocab()
    assert written.tokenize("abcd</s>") == ["ab", "cd", "</s>"]
    for token, row in models.rows("out").items():
        torch.testing.assert_close(row, (models.rows("base")[token] + models.rows("wide")[token]) / 2)


def test_a_token_beyond_the_rows_of_one_model_is_that_of_another_in_a_union(models: Models) -> None:
    wide = models.add("wide", bpe(["a+b", "c+d"], ["</s>", "<|x|>", "<|im_start|>"]), rows=13)
    document = linear(base_model="wide", tokenizer_source="union")
    document["models"] = [{"model": m, "parameters": {"weight": 0.5}} for m in ("wide", "chat")]
    assert models.merge(document).warnings == ()
    assert len(load_tokenizer(wide).get_vocab()) == 14
    torch.testing.assert_close(models.rows("out")["<|im_start|>"], models.rows("chat")["<|im_start|>"])


def test_a_token_with_a_role_stays_even_beyond_the_rows(models: Models) -> None:
    tokenizer = bpe(["a+b", "c+d"], ["</s>", "<|x|>", "<pad>"])
    tokenizer.pad_token = "<pad>"
    models.add("wide", tokenizer, rows=12)
    document = linear(base_model="wide", tokenizer_source="base")
    document["models"] = [{"model": m, "parameters": {"weight": 0.5}} for m in ("wide", "base")]
    models.merge(document)
    written = load_tokenizer(models.folder / "out")
    assert written.pad_token_id == 12
    assert "<|x|>" not in written.get_vocab()
    assert not models.rows("out")["<pad>"].any()
    assert len(models.rows("out")) == len(written) == 13


@pytest.mark.parametrize("source", ["union", "base"])
def test_a_new_token_is_kept_in_decoding_and_one_of_another_model_is_what_it_is_there(
    models: Models, source: str
) -> None:
    rules = {"<think>": {"source": {"kind": "zero"}}, "<|im_start|>": {"source": "chat"}}
    models.merge(linear(tokenizer={"source": source, "tokens": rules}))
    tokenizer = load_tokenizer(models.folder / "out")
    ids = tokenizer("ab<think>cd<|im_start|>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "ab<think>cd"
    assert tokenizer.tokenize("ab<think>") == ["ab", "<think>"]


def test_added_tokens_keep_how_they_are_matched(models: Models) -> None:
    tokenizer = bpe(["a+b"])
    flags = {"special": False, "normalized": True, "lstrip": True, "rstrip": False, "single_word": True}
    tokenizer.add_tokens([AddedToken("<w>", **flags), AddedToken("<s>", special=True, rstrip=True)])
    models.add("flags", tokenizer)
    pair = [{"model": m, "parameters": {"weight": 0.5}} for m in ("base", "flags")]
    models.merge(linear(models=pair, tokenizer={"source": "union", "tokens": {"<w>": {"source": "flags"}}}))
    found = {t.content: t for t in load_tokenizer(models.folder / "out").added_tokens_decoder.values()}
    assert {name: getattr(found["<w>"], name) for name in flags} == flags
    assert found["<s>"].special
    assert found["<s>"].rstrip


def remove_tokenizer(folder: Path) -> None:
    for pattern in ("token*", "special*", "chat*"):
        for file in folder.glob(pattern):
            file.unlink()


@pytest.mark.parametrize("source", ["union", "base", "code"])
def test_a_model_without_tokenizer_files_takes_those_of_the_base(models: Models, source: str) -> None:
    document = linear(tokenizer_source=source)
    same = models.add("same", bpe(["a+b", "c+d"]))
    document["models"].append({"model": "same", "parameters": {"weight": 0.4}})
    want = models.merge(document)
    remove_tokenizer(same)
    result = models.merge(document)
    assert result.fingerprint == want.fingerprint
    assert len(result.warnings) == len(want.warnings) + 1
    assert result.warnings[0] == "no tokenizer files in same: the tokenizer of base is taken instead"
    recipe = parse_recipe(document)
    live = TransformersModel(open_sources({r: r for r in recipe.references()}, (models.folder,)))
    assert live.load(recipe) == want.fingerprint
    assert live.load(recipe) == want.fingerprint
    assert live.tokenizer.get_vocab() == load_tokenizer(models.folder / "out").get_vocab()
    live.close()


def test_a_base_without_tokenizer_files_takes_those_of_another_model(models: Models) -> None:
    models.add("same", bpe(["a+b", "c+d"]))
    document = linear(models=[{"model": m, "parameters": {"weight": 1}} for m in ("base", "same")])
    remove_tokenizer(models.folder / "base")
    (warning,) = models.merge(document).warnings
    assert warning == "no tokenizer files in base: the tokenizer of same is taken instead"
    assert load_tokenizer(models.folder / "out").tokenize("abcd") == ["ab", "cd"]


@pytest.mark.parametrize("section", [{}, {"tokenizer_source": "base"}, {"tokenizer_source": "union"}])
def test_models_without_any_tokenizer_are_merged_without_one(models: Models, section: dict[str, Any]) -> None:
    models.add("same", bpe(["a+b", "c+d"]))
    pair = [{"model": m, "parameters": {"weight": 1}} for m in ("base", "same")]
    want = models.merge(linear(models=pair, **section)).fingerprint
    for name in ("base", "same"):
        remove_tokenizer(models.folder / name)
    result = models.merge(linear(models=pair, **section))
    assert result.fingerprint == want
    assert result.warnings == ("no tokenizer files in base, same: the output has none either",)
    assert not list((models.folder / "out").glob("token*"))
    with pytest.raises(
        CheckpointError, match="base: the recipe has a tokenizer section, but none of its models"
    ):
        models.merge(linear(models=pair, tokenizer={"source": "base", "pad_to_multiple_of": 8}))


def test_a_damaged_tokenizer_is_named(models: Models) -> None:
    (models.folder / "chat" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="chat: its tokenizer cannot be loaded"):
        models.merge(linear(tokenizer_source="union"))


def test_a_tokenizer_of_bytes_needs_no_files_of_tokens(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert not has_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert has_tokenizer(tmp_path)
