"""The inputs of recipes: open models, stages, and models aligned to one spelling and one vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.checkpoints.checkpoint import Checkpoint, LeftOut
from evomerge.engine.adapters import with_adapter
from evomerge.engine.compatibility import check_not_quantized
from evomerge.engine.disagreements import config_warnings
from evomerge.engine.ignored import unused_patterns, without_ignored
from evomerge.engine.layout import config_source_of
from evomerge.engine.plan import MergePlan
from evomerge.engine.planner import plan_merge
from evomerge.engine.stages import stage_checkpoint
from evomerge.engine.tokenizer_folders import vocabulary_warnings
from evomerge.engine.unify import UnifiedModels, unify
from evomerge.engine.vocabulary import Alignment, align, truncate
from evomerge.errors import RecipeError, did_you_mean
from evomerge.methods import get_method
from evomerge.recipe import Recipe, stage_of

__all__ = ["Inputs"]


class Inputs:
    """Plans recipes over ``checkpoints`` (by the names that recipes use).

    Stages and vocabularies that did not change since the last recipe are kept, so that what was measured on
    them stays valid: where the checkpoint is the same object, the weights are the same.
    """

    def __init__(self, checkpoints: Mapping[str, Checkpoint], *, truncate_embeddings: bool = False) -> None:
        self.checkpoints = dict(checkpoints)
        self._truncate = truncate_embeddings
        self._stages: dict[str, tuple[str, Checkpoint]] = {}
        self._adapted: dict[str, tuple[str, Checkpoint]] = {}
        self._alignments: dict[str, Alignment] = {}
        self._ignoring: dict[_IgnoredKey, tuple[Checkpoint, tuple[str, ...], Checkpoint]] = {}
        self._unified_cache: dict[_UnifiedKey, tuple[UnifiedModels, tuple[Checkpoint, ...]]] = {}

    def plan(self, recipe: Recipe) -> MergePlan:
        """The plan of ``recipe``; if it can be made, the merge can run.

        Raises:
            RecipeError: An unknown method or parameter, a value out of bounds, layers that do not exist.
            CheckpointError: Models that do not fit together; every offending tensor is listed.
        """
        pool, keys = dict(self.checkpoints), dict.fromkeys(self.checkpoints, "")
        stages = _in_order(recipe)
        for stage in stages:
            name = str(stage.name)
            self._adapt_stages(stage, pool, keys)
            inputs = {model: keys[model] for model in stage.inputs() if keys.get(model)}
            keys[name] = json.dumps([stage.key(), recipe.ignore, inputs])
            known, checkpoint = self._stages.get(name, ("", None))
            if checkpoint is None or known != keys[name]:
                checkpoint = stage_checkpoint(self._plan(stage, pool, keys, recipe.ignore))
                self._stages[name] = keys[name], checkpoint
            pool[name] = checkpoint
        plan = self._plan(recipe, pool, keys)
        return self._with_ignored(plan, [*stages, recipe], recipe.ignore, pool)

    def _with_ignored(
        self,
        plan: MergePlan,
        recipes: Sequence[Recipe],
        everywhere: Sequence[str],
        pool: Mapping[str, Checkpoint],
    ) -> MergePlan:
        """``plan`` with what all of ``recipes`` leave out, and a warning of patterns that match nothing."""
        ignored: dict[str, tuple[str, ...]] = {}
        patterns: list[str] = []
        for merge in recipes:
            own = (*merge.ignore, *everywhere)
            patterns += own
            for model in merge.inputs() if own else ():
                names = self._without_ignored(model, pool[model], own)[1]
                if names:
                    ignored[model] = tuple(dict.fromkeys((*ignored.get(model, ()), *names)))
        unused = unused_patterns(patterns, ignored)
        warnings = [f"ignore: {pattern!r} matches no tensor" for pattern in unused]
        left_out = plan.left_out.join(LeftOut(ignored))
        stages = [merge.name for merge in recipes]
        for model in dict.fromkeys(model for merge in recipes for model in merge.inputs()):
            of = "" if stage_of(model, stages) is not None else model
            left_out = left_out.join(pool[model].left_out, of)
        return replace(plan, warnings=(*plan.warnings, *warnings), left_out=left_out)

    def _without_ignored(
        self, model: str, checkpoint: Checkpoint, patterns: tuple[str, ...]
    ) -> tuple[Checkpoint, tuple[str, ...]]:
        """What ``without_ignored`` gives; the same object for the same checkpoint."""
        if not patterns:
            return checkpoint, ()
        key = (model, patterns, id(checkpoint))
        if key not in self._ignoring:
            for old in [k for k in self._ignoring if k[:2] == key[:2]]:  # of a stage that was planned again
                del self._ignoring[old]
            self._ignoring[key] = (*without_ignored(model, checkpoint, patterns), checkpoint)
        return self._ignoring[key][:2]

    def _adapt_stages(self, recipe: Recipe, pool: dict[str, Checkpoint], keys: dict[str, str]) -> None:
        """Adds to ``pool`` the stages that ``recipe`` names with an adapter (``stage+adapter``)."""
        for model in recipe.inputs():
            stage = stage_of(model, pool)
            adapter = self.checkpoints.get(model[len(stage) :]) if stage is not None else None
            if stage is None or adapter is None or model in pool:
                continue
            keys[model] = json.dumps([keys[stage], model])
            known, checkpoint = self._adapted.get(model, ("", None))
            if checkpoint is None or known != keys[model]:
                checkpoint = with_adapter(pool[stage], adapter.path)
                self._adapted[model] = keys[model], checkpoint
            pool[model] = checkpoint

    def _plan(
        self,
        recipe: Recipe,
        pool: dict[str, Checkpoint],
        keys: dict[str, str],
        everywhere: Sequence[str] = (),
    ) -> MergePlan:
        self._adapt_stages(recipe, pool, keys)
        models = recipe.inputs()
        unknown = next((model for model in models if model not in pool), None)
        if unknown is not None:
            raise RecipeError("recipe", f"there is no model {unknown!r}", did_you_mean(unknown, pool))
        alone = next((model for model in models if model.startswith("+") and not pool[model].tensors), None)
        if alone is not None:
            raise RecipeError("recipe", f"{alone!r} is an adapter alone", f"Write base_model{alone}.")
        patterns = (*recipe.ignore, *everywhere)
        checkpoints = {model: self._without_ignored(model, pool[model], patterns)[0] for model in models}
        spec = recipe.vocabulary
        key = json.dumps(
            [
                spec.model_dump() if spec is not None else None,
                recipe.chat_template,
                patterns,
                {model: keys[model] for model in checkpoints},
                [recipe.merge_method, recipe.base_model, *recipe.merged()],
            ]
        )
        if key not in self._alignments:
            # One per main recipe and stage; more only where a search changes which models it merges.
            while len(self._alignments) > _KEPT + len(self._stages):
                self._alignments.pop(next(iter(self._alignments)))
            self._alignments[key] = self._align(recipe, checkpoints)
        return plan_merge(recipe, self._alignments[key])

    def _align(self, recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> Alignment:
        config_source = config_source_of(recipe)
        drop_equal = "key" in get_method(recipe.merge_method).context  # each tensor at random by its name
        unified = self._unify(checkpoints, config_source, drop_equal=drop_equal)
        made = self._one_vocabulary(recipe, unified.checkpoints, config_source)
        own = (f"{model}: {text}" for model, c in checkpoints.items() for text in c.warnings)
        merged = {model: checkpoints[model] for model in dict.fromkeys((config_source, *recipe.merged()))}
        differing = config_warnings(merged, config_source)
        left_out = LeftOut(unused=unified.unused)
        return replace(
            made, warnings=(*own, *unified.warnings, *differing, *made.warnings), left_out=left_out
        )

    def _unify(
        self, checkpoints: Mapping[str, Checkpoint], config_source: str, *, drop_equal: bool
    ) -> UnifiedModels:
        """The checkpoints in one spelling; the same objects for the same checkpoints."""
        key = (config_source, drop_equal, tuple((model, id(c)) for model, c in checkpoints.items()))
        if key not in self._unified_cache:
            while len(self._unified_cache) > _KEPT + len(self._stages):
                self._unified_cache.pop(next(iter(self._unified_cache)))
            check_not_quantized(checkpoints)
            self._unified_cache[key] = (
                unify(checkpoints, config_source, drop_equal=drop_equal),
                tuple(checkpoints.values()),
            )
        return self._unified_cache[key][0]

    def _one_vocabulary(
        self, recipe: Recipe, checkpoints: Mapping[str, Checkpoint], config_source: str
    ) -> Alignment:
        warnings: tuple[str, ...] = ()
        if self._truncate and recipe.vocabulary is None:
            alignment = truncate(checkpoints, config_source)
        else:
            alignment = align(recipe, checkpoints, config_source)
            if recipe.vocabulary is None:
                warnings = tuple(vocabulary_warnings(checkpoints))
        return replace(alignment, warnings=(*alignment.warnings, *warnings))


_KEPT = 4
_IgnoredKey = tuple[str, tuple[str, ...], int]
"""Model, patterns, and the checkpoint by identity (it is kept with the value)."""
_UnifiedKey = tuple[str, bool, tuple[tuple[str, int], ...]]
"""Config source, whether equal copies are dropped, and the checkpoints by identity (kept with the value)."""


def _in_order(recipe: Recipe) -> list[Recipe]:
    """The stages that the recipe needs, each after those that it is made from; there are no cycles."""
    by_name = {stage.name: stage for stage in recipe.stages}
    found: dict[str, Recipe] = {}

    def visit(merge: Recipe) -> None:
        for model in merge.inputs():
            stage = by_name.get(stage_of(model, by_name))
            if stage is not None and stage.name not in found:
                visit(stage)
                found[str(stage.name)] = stage

    visit(recipe)
    return list(found.values())
