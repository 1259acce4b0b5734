"""What to merge: recipes, and recipes with holes. Knows neither torch nor files of weights."""

from evomerge.recipe.dialect import as_number, normalise, whole, without_extras
from evomerge.recipe.files import (
    dump_recipe,
    load_recipe,
    parse,
    parse_recipe,
    parse_yaml,
    read_recipe,
    read_yaml,
    write_whole,
    wrong_fields,
)
from evomerge.recipe.loader import Document
from evomerge.recipe.model import (
    Module,
    Recipe,
    Slice,
    Source,
    TokenizerSpec,
    TokenRule,
    TokenSource,
    stage_of,
)
from evomerge.recipe.space import Dimension, SearchSpace, Value, Values
from evomerge.recipe.values import Parameters, Scalar, Setting, filters_of, lookup

__all__ = [
    "Dimension",
    "Document",
    "Module",
    "Parameters",
    "Recipe",
    "Scalar",
    "SearchSpace",
    "Setting",
    "Slice",
    "Source",
    "TokenRule",
    "TokenSource",
    "TokenizerSpec",
    "Value",
    "Values",
    "as_number",
    "dump_recipe",
    "filters_of",
    "load_recipe",
    "lookup",
    "normalise",
    "parse",
    "parse_recipe",
    "parse_yaml",
    "read_recipe",
    "read_yaml",
    "stage_of",
    "whole",
    "without_extras",
    "write_whole",
    "wrong_fields",
]
