"""Aligns models with different vocabularies: rows of embeddings are moved, taken over, or removed."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoints.checkpoint import Checkpoint, LeftOut, TensorInfo
from evomerge.checkpoints.derived import DerivedFiles
from evomerge.engine.configuration import text_parts
from evomerge.engine.layers import find_stacks
from evomerge.engine.output_tokenizer import output_tokenizer
from evomerge.engine.tokenizer_folders import TokenizerFolder, lend_tokenizers
from evomerge.errors import CheckpointError, RecipeError
from evomerge.recipe import Recipe, TokenizerSpec, TokenSource
from evomerge.tokenizers.chat_templates import (
    chat_template,
    most_common,
    read_chat_template,
    write_chat_template,
)
from evomerge.tokenizers.row_maps import Embedding, RowMap, RowOrigin, TokenChoice, origin_of, row_maps
from evomerge.tokenizers.vocabulary import (
    Vocabulary,
    has_tokenizer,
    tokenizer_files,
)

__all__ = ["Alignment", "Renumbering", "align", "embedding_tensors", "truncate"]

_WORDS = ("embed", "wte", "lm_head", "tok_", "shared", "output", "predictions", "decoder", "head", "word")
_NOT_WORDS = ("position", "wpe", "pos_emb", "token_type", "norm", "project_", "patch", "rotary")


@dataclass(frozen=True)
class Renumbering:
    """New token ids by old; an id whose token was removed becomes that of its role (``eos_token_id``)."""

    ids: Mapping[int, int]
    roles: Mapping[str, int]

    def apply(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` with every token id, at any depth, replaced by the new one."""
        return {key: self._renumber(key, value) for key, value in config.items()}

    def _renumber(self, key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self.apply(value)
        if not key.endswith(("token_id", "token_index", "token_ids")):
            return value
        if isinstance(value, list):
            return [self.ids[v] for v in value if isinstance(v, int) and v in self.ids] or value
        if isinstance(value, int) and not isinstance(value, bool):
            return self.ids.get(value, self.roles.get(key, value))
        return value


@dataclass(frozen=True)
class Alignment:
    """Checkpoints with one vocabulary, its tokenizer, and how the config source's token ids changed.

    ``left_out`` are tensors that the checkpoints no longer have.
    """

    checkpoints: Mapping[str, Checkpoint]
    tokenizer: TokenizerFolder
    renumber: Renumbering | None = None
    warnings: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)


def align(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], config_source: str) -> Alignment:
    """``checkpoints`` with the vocabulary and chat template that ``recipe`` asks for.

    Raises:
        RecipeError: The section names a model or a token that does not exist.
        CheckpointError: A tokenizer is missing or damaged.
    """
    spec = recipe.vocabulary
    lent, warnings = lend_tokenizers(checkpoints, config_source)
    if spec is not None and has_tokenizer(lent[config_source].tokenizer):
        made = _by_tokens(recipe, spec, lent, config_source)
        made = replace(made, warnings=(*warnings, *made.warnings))
    elif spec is not None and (spec.tokens or spec.pad_to_multiple_of is not None):
        raise CheckpointError(
            config_source,
            "the recipe has a tokenizer section, but none of its models has tokenizer files",
            "Copy those of the base model into the folder.",
        )
    else:
        made = _without_section(checkpoints, lent, config_source, warnings)
    if recipe.chat_template is None:
        return made
    return _with_chat_template(recipe, made.checkpoints, made)


def _without_section(
    checkpoints: Mapping[str, Checkpoint],
    lent: Mapping[str, Checkpoint],
    config_source: str,
    warnings: tuple[str, ...],
) -> Alignment:
    """The models as they are, with the config source's tokenizer, or with another that fits its rows."""
    own, other = checkpoints[config_source].tokenizer, lent[config_source].tokenizer
    lender = next((m for m, c in checkpoints.items() if c.tokenizer == other), config_source)
    if own != other and _rows(checkpoints[lender]) != _rows(checkpoints[config_source]):
        return Alignment(checkpoints, TokenizerFolder(own), None, (f"no tokenizer files in {config_source}",))
    needed = own != other or not has_tokenizer(other)
    return Alignment(checkpoints, TokenizerFolder(other), None, warnings if needed else ())


def truncate(checkpoints: Mapping[str, Checkpoint], config_source: str) -> Alignment:
    """``checkpoints`` with embeddings cut to the size that all have."""
    sizes = {model: _rows(checkpoint) for model, checkpoint in checkpoints.items()}
    size = min(sizes.values(), default=0)
    views, warnings = {}, []
    for model, checkpoint in checkpoints.items():
        names = embedding_tensors(checkpoint) if sizes[model] > size else ()
        made = {name: partial(_truncate, checkpoint, name, size) for name in names}
        views[model] = _view(checkpoint, made, size, None)
        if names:
            warnings.append(f"{model}: {', '.join(names)} cut from {sizes[model]} to {size} rows")
    return Alignment(views, TokenizerFolder(checkpoints[config_source].tokenizer), None, tuple(warnings))


def embedding_tensors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors outside the layers that have one row (or one number) a token."""
    stacks = find_stacks(checkpoint.tensors, checkpoint.config)
    rows = _vocabulary_size(checkpoint.config)
    names = []
    for name, info in checkpoint.tensors.items():
        plain = name.lower()
        if stacks.place(name) is not None or not info.shape or any(w in plain for w in _NOT_WORDS):
            continue
        if not any(word in plain for word in _WORDS):
            continue
        if len(info.shape) != 2 and not plain.endswith("bias"):
            continue
        if rows is None or info.shape[0] == rows:
            names.append(name)
    return tuple(names)


def _by_tokens(
    recipe: Recipe, spec: TokenizerSpec, checkpoints: Mapping[str, Checkpoint], config_source: str
) -> Alignment:
    """``align`` for a recipe with a tokenizer section."""
    made = output_tokenizer(recipe, spec, checkpoints, config_source, _rows)
    aligner = _Aligner(recipe, spec, checkpoints, made.of_models)
    alignment = aligner.align(made.vocabulary, made.folder, config_source)
    return replace(alignment, warnings=(*made.warnings, *alignment.warnings))


class _Aligner:
    """Moves the rows of models with these vocabularies to those of another."""

    def __init__(
        self,
        recipe: Recipe,
        spec: TokenizerSpec,
        checkpoints: Mapping[str, Checkpoint],
        vocabularies: Mapping[str, Vocabulary],
    ) -> None:
        self.recipe = recipe
        self.spec = spec
        self.checkpoints = checkpoints
        self.vocabularies = vocabularies
        self.embeddings = {m: Embedding(vocabularies[m], _rows(c)) for m, c in checkpoints.items()}

    def align(self, output: Vocabulary, folder: TokenizerFolder, config_source: str) -> Alignment:
        maps = row_maps(
            self.embeddings,
            output,
            base=self.recipe.base_model,
            choices=self._choices(),
            pad_to_multiple_of=self.spec.pad_to_multiple_of,
        )
        views = {m: self._align_model(m, maps[m], output) for m in self.checkpoints}
        return Alignment(views, folder, self._renumbering(config_source, output), self._warnings(output))

    def _choices(self) -> dict[str, TokenChoice]:
        choices = {}
        for token, rule in self.spec.tokens.items():
            where, source = f"tokenizer.tokens.{token}.source", rule.source
            if source is None:
                if rule.force:
                    raise RecipeError(f"tokenizer.tokens.{token}", "'force' needs a 'source'")
                continue
            if isinstance(source, str):
                origin = origin_of(self.embeddings, where, source, token, None)
            elif source.kind == "zero":
                choices[token] = TokenChoice(None, rule.force)
                continue
            else:
                origin = origin_of(self.embeddings, where, _model(source), source.token, source.token_id)
            choices[token] = TokenChoice(origin, rule.force)
        return choices

    def _align_model(self, model: str, rows: RowMap, output: Vocabulary) -> Checkpoint:
        checkpoint = self.checkpoints[model]
        names = embedding_tensors(checkpoint)
        made = {}
        if not rows.is_identity(self.embeddings[model].rows):
            made = {name: partial(self._move_rows, model, name, rows) for name in names}
        view = _view(checkpoint, made, rows.size, names)
        renumber = self._renumbering(model, output)
        if renumber is not None:
            view.config = renumber.apply(view.config)
        return view

    def _move_rows(self, model: str, name: str, rows: RowMap) -> Tensor:
        """The embedding on its new rows; float32 where it holds means, or rows of another dtype."""
        own = self.checkpoints[model].read(name)
        taken = _by_model(rows.taken.items())
        shares = _by_model((i, origin) for i, origins in rows.means.items() for origin in origins)
        rows_of = {m: self._take_rows(m, name, own) for m in dict.fromkeys((*taken, *shares))}
        is_exact = all(rows_of[m].dtype == own.dtype for m in taken) and not rows.means and not rows.gaps
        moved = torch.zeros((rows.size, *own.shape[1:]), dtype=own.dtype if is_exact else torch.float32)
        kept = [i for i, row in enumerate(rows.own) if row >= 0]
        moved[kept] = own[[rows.own[i] for i in kept]].to(moved.dtype)
        for model, (places, origins) in taken.items():
            moved[places] = rows_of[model][origins].to(moved.dtype)
        for model, (places, origins) in shares.items():
            moved[places] += rows_of[model][origins].float()
        for i, parts in rows.means.items():
            moved[i] /= len(parts)
        if rows.gaps:
            used = torch.ones(rows.size, dtype=torch.bool)
            used[list(rows.gaps)] = False
            moved[~used] = moved[used].double().mean(dim=0).to(moved.dtype)
        return moved

    def _take_rows(self, model: str, name: str, own: Tensor) -> Tensor:
        checkpoint = self.checkpoints[model]
        if name not in checkpoint.tensors:  # tied there: the output embedding is the input embedding
            tied = [n for n in embedding_tensors(checkpoint) if len(checkpoint.tensors[n].shape) == own.dim()]
            if not tied:
                raise CheckpointError(model, f"has no tensor {name} to take rows from")
            name = tied[0]
        tensor = checkpoint.read(name)
        if tensor.shape[1:] != own.shape[1:]:
            raise CheckpointError(
                model, f"{name} has rows of {list(tensor.shape[1:])} numbers, others of {list(own.shape[1:])}"
            )
        return tensor

    def _renumbering(self, model: str, output: Vocabulary) -> Renumbering | None:
        """Old id to new id for the tokens that both have; None where no id changes."""
        ids = {i: output.ids[t] for t, i in self.vocabularies[model].ids.items() if t in output.ids}
        complete = len(ids) == len(self.vocabularies[model].ids)
        if complete and all(old == new for old, new in ids.items()):
            return None
        return Renumbering(ids, output.special)

    def _warnings(self, output: Vocabulary) -> tuple[str, ...]:
        warnings = []
        owned = {t for e in self.embeddings.values() for t in e.vocabulary.ids if e.row(t) is not None}
        orphans = [t for t in output.ordered() if t not in owned and t not in self.spec.tokens]
        if orphans:
            shown = ", ".join(repr(t) for t in orphans[:_LISTED])
            warnings.append(f"{len(orphans)} tokens have no embedding in any model and get zeros: {shown}")
        for model, checkpoint in self.checkpoints.items():
            if not embedding_tensors(checkpoint):
                warnings.append(f"{model} has no tensor that looks like an embedding of tokens")
        return tuple(warnings)


_LISTED = 8


def _by_model(origins: Iterable[tuple[int, RowOrigin]]) -> dict[str, tuple[list[int], list[int]]]:
    """Output rows and input rows, by the model that the input rows are of."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for i, origin in origins:
        places, rows = found.setdefault(origin.model, ([], []))
        places.append(i)
        rows.append(origin.row)
    return found


def _model(source: TokenSource) -> str:
    return str(source.model)  # the schema requires one


def _with_chat_template(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], made: Alignment) -> Alignment:
    setting = str(recipe.chat_template)
    if setting == "auto":
        text = most_common([read_chat_template(checkpoints[m].tokenizer) for m in recipe.merged()])
        if text is None:
            warning = "chat_template: auto, but no model has a chat template"
            return replace(made, warnings=(*made.warnings, warning))
    else:
        text = chat_template(setting)
    folder = made.tokenizer
    if not folder.is_own:
        folder = TokenizerFolder()
        for file in tokenizer_files(made.tokenizer.path):
            shutil.copyfile(file, folder.path / file.name)
    write_chat_template(folder.path, text)
    return replace(made, tokenizer=folder)


def _view(
    checkpoint: Checkpoint, made: Mapping[str, Any], size: int, names: Sequence[str] | None
) -> Checkpoint:
    """``checkpoint`` with the tensors in ``made`` of ``size`` rows."""
    tensors = dict(checkpoint.tensors)
    for name in made:
        tensors[name] = TensorInfo((size, *tensors[name].shape[1:]), tensors[name].dtype)
    config = checkpoint.config
    if made or (names and _rows(checkpoint) != size):
        config = copy.deepcopy(config)
        for part in text_parts(config):
            if "vocab_size" in part:
                part["vocab_size"] = size
    view = copy.copy(checkpoint)
    view.config, view.tensors = config, tensors
    view.files = DerivedFiles(checkpoint.files, made)
    return view


def _truncate(checkpoint: Checkpoint, name: str, size: int) -> Tensor:
    return checkpoint.read(name)[:size]


def _rows(checkpoint: Checkpoint) -> int:
    """Rows of the embedding."""
    names = embedding_tensors(checkpoint)
    return checkpoint.tensors[names[0]].shape[0] if names else _vocabulary_size(checkpoint.config) or 0


def _vocabulary_size(config: Mapping[str, Any]) -> int | None:
    return next(
        (int(p["vocab_size"]) for p in text_parts(config) if isinstance(p.get("vocab_size"), int)), None
    )
