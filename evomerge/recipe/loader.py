"""Reads YAML of plain values, all that a recipe or an experiment may hold; some fields always as text."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["MAX_YAML_NODES", "Document", "load_documents"]

MAX_YAML_NODES = 200_000
"""Nodes after aliases are expanded: a document that grows beyond this is an attack or a mistake."""
MAX_NUMBER_LENGTH = 400
"""Letters of a number: reading a longer one takes time that grows with the square of its length."""

_MOST_REPEATED = 100
"""Keys given twice in one document; a document with more was not written by hand."""

_TAG = "tag:yaml.org,2002:"
_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_UNFIT = re.compile("[\0\ud800-\udfff]")
"""Characters that file names, databases and JSON cannot hold."""

_TEXTS = frozenset(
    """
    model base_model path revision lora tokenizer_source source token filter name merge_method dtype
    out_dtype override_architecture task metric space dir
    """.split()  # noqa: SIM905
)
"""Fields that are a text whatever it looks like: a model named 0123, 1.5 or on is meant as it is written."""
_TEXT_MAPPINGS = {"models": True, "tokens": False}
"""Fields whose keys are names, and whether their values are, too."""


class Document(dict[str, Any]):
    """A mapping read from YAML, with warnings of the reader and keys whose value has an anchor."""

    def __init__(
        self, fields: dict[str, Any], warnings: tuple[str, ...] = (), carriers: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(fields)
        self.warnings = warnings
        self.carriers = carriers


def load_documents(text: str, fields: frozenset[str]) -> list[Any]:
    """The documents in ``text``; those that are mappings as ``Document``.

    A key at the top that is not one of ``fields`` and only carries an anchor may be repeated.

    Raises:
        YAMLError, ValueError, LookupError, OverflowError, RecursionError: ``text`` is not plain YAML.
    """
    loader = _PlainLoader(text, fields)
    documents = []
    try:
        while loader.check_data():  # type: ignore[no-untyped-call]
            data = loader.get_data()
            if isinstance(data, dict):
                data = Document(data, tuple(loader.warnings), frozenset(loader.carriers))
            documents.append(data)
    finally:
        loader.dispose()
    return documents


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML of plain values: no dates, sets or bytes, and no key given twice with two values."""

    yaml_constructors = {  # noqa: RUF012 (as PyYAML has it)
        None: yaml.SafeLoader.yaml_constructors[None],
        **{_TAG + tag: yaml.SafeLoader.yaml_constructors[_TAG + tag] for tag in _TAGS},
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str, fields: frozenset[str]) -> None:
        super().__init__(stream)
        self.warnings: list[str] = []
        self.carriers: set[str] = set()
        self._fields = fields
        self._root: yaml.Node | None = None
        self._anchored: dict[int, yaml.Node] = {}  # the nodes too, so that no id is used again
        self._merged = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if node is not None and not isinstance(event, yaml.AliasEvent) and event.anchor is not None:
            self._anchored[id(node)] = node
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        self.warnings, self.carriers, self._root = [], set(), node
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if id(value) in self._anchored:
                self.carriers.add(str(key.value))
            if key.value == "recipe" and isinstance(value, yaml.MappingNode):
                self.carriers |= {str(k.value) for k, v in value.value if id(v) in self._anchored}
        try:
            return super().construct_document(node)
        finally:
            self._anchored.clear()

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _UNFIT.search(value):
            raise yaml.constructor.ConstructorError(
                None, None, "a text may hold no null character and no half of a character", node.start_mark
            )
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(str(value)) > MAX_NUMBER_LENGTH:
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        return value

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges ``<<`` into ``node``; unlike PyYAML's, each key once: merges of merges do not explode."""
        own = [(key, value) for key, value in node.value if key.tag != f"{_TAG}merge"]
        merged: dict[tuple[str, str], Any] = {}
        for key, value in node.value:
            if key.tag != f"{_TAG}merge":
                continue
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(part, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, "only mappings can be merged by <<", key.start_mark
                    )
                self.flatten_mapping(part)
                self._merged += 1 + len(part.value)
                if self._merged > MAX_YAML_NODES:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"merges (<<) of more than {MAX_YAML_NODES} values", key.start_mark
                    )
                for pair in part.value:
                    merged.setdefault((pair[0].tag, str(pair[0].value)), pair)
        for key, _ in own:
            merged.pop((key.tag, str(key.value)), None)
        node.value = [*merged.values(), *own]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        node.value = self._unique(node)
        self.flatten_mapping(node)
        node.value = [(key, _text_of(key, value)) for key, value in node.value]
        return super().construct_mapping(node, deep=deep)

    def _unique(self, node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
        """The pairs of ``node`` with each key once; a merge (``<<``) is not a key."""
        merges = [pair for pair in node.value if pair[0].tag == f"{_TAG}merge"]
        pairs: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value in node.value:
            if key_node.tag == f"{_TAG}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain value", key_node.start_mark
                )
            if key in pairs:
                self._check_repeated(node, key, pairs[key], (key_node, value))
            pairs[key] = (key_node, value)
        return [*merges, *pairs.values()]

    def _check_repeated(
        self,
        node: yaml.MappingNode,
        key: Any,
        first: tuple[yaml.Node, yaml.Node],
        second: tuple[yaml.Node, yaml.Node],
    ) -> None:
        line = first[0].start_mark.line + 1
        anchors = all(id(value) in self._anchored for value in (first[1], second[1]))
        if len(self.warnings) >= _MOST_REPEATED:
            problem = f"more than {_MOST_REPEATED} keys are given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, second[0].start_mark)
        if _same(first[1], second[1]):
            what = "twice with the same value"
        elif node is self._root and anchors and key not in self._fields:
            what = "twice, for two anchors, and has no effect itself"
        else:
            problem = f"the key {key!r} is given twice with different values, first in line {line}"
            raise yaml.constructor.ConstructorError(None, None, problem, second[0].start_mark)
        self.warnings.append(
            f"line {second[0].start_mark.line + 1}: the key {key!r} is given {what} (first in line {line})"
        )


def _same(first: yaml.Node, second: yaml.Node) -> bool:
    """Whether two nodes are written alike; each pair is compared once, however many aliases lead to it."""
    open_, seen = [(first, second)], set()
    while open_:
        a, b = open_.pop()
        if a is b or (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        if len(seen) > MAX_YAML_NODES or a.tag != b.tag or type(a) is not type(b):
            return False
        if isinstance(a, yaml.ScalarNode):
            if a.value != b.value:
                return False
            continue
        if len(a.value) != len(b.value):
            return False
        for left, right in zip(a.value, b.value, strict=True):
            open_ += zip(left, right, strict=True) if isinstance(left, tuple) else [(left, right)]
    return True


def _text_of(key: yaml.Node, value: yaml.Node) -> yaml.Node:
    """``value`` with its plain numbers and booleans as text, where the field ``key`` is a text."""
    if not isinstance(key, yaml.ScalarNode):
        return value
    if key.value in _TEXTS:
        if isinstance(value, yaml.MappingNode):  # a hole: {choice: [1.5, on]}
            return _with_pairs(value, [(k, _texts(v) if k.value == "choice" else v) for k, v in value.value])
        return _text(value)
    if key.value in _TEXT_MAPPINGS and isinstance(value, yaml.MappingNode):
        values = _TEXT_MAPPINGS[key.value]
        return _with_pairs(value, [(_text(k), _text(v) if values else v) for k, v in value.value])
    return value


def _with_pairs(node: yaml.MappingNode, pairs: list[tuple[yaml.Node, yaml.Node]]) -> yaml.Node:
    if all(a is c and b is d for (a, b), (c, d) in zip(pairs, node.value, strict=True)):
        return node
    return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark, node.flow_style)


def _texts(node: yaml.Node) -> yaml.Node:
    if not isinstance(node, yaml.SequenceNode):
        return _text(node)
    return yaml.SequenceNode(
        node.tag, [_text(v) for v in node.value], node.start_mark, node.end_mark, node.flow_style
    )


def _text(node: yaml.Node) -> yaml.Node:
    # A copy: an alias of this node may stand where a number is meant.
    if isinstance(node, yaml.ScalarNode) and node.tag in (f"{_TAG}int", f"{_TAG}float", f"{_TAG}bool"):
        return yaml.ScalarNode(f"{_TAG}str", node.value, node.start_mark, node.end_mark, node.style)
    return node
