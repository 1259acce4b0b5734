"""What a study scores: a digest by task that shows not only that something changed, but what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["CHAT_TEMPLATE", "ItemDigest", "ScoredDigest", "TaskDigest", "short_digest"]

CHAT_TEMPLATE = "chat template"
"""The aspect that only who knows the models can tell: workers have none before their first job."""


def short_digest(value: Any, length: int = 12) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of a plain value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


@dataclass(frozen=True)
class ItemDigest:
    """One item: its name (a digest of its document), and digests of what is made of it."""

    name: str
    question: str
    """Of the prompt's own part, without few-shot examples."""
    target: str
    prompt: str
    """Of all texts that the model is given."""


@dataclass(frozen=True)
class TaskDigest:
    """One task: plain texts (or digests) by aspect, such as ``metric``; its items by split."""

    aspects: Mapping[str, str]
    items: Mapping[str, Sequence[ItemDigest]]

    def document(self) -> dict[str, Any]:
        """Plain JSON values, for ``from_document``."""
        return {
            "aspects": dict(self.aspects),
            "items": {
                split: [" ".join((i.name, i.question, i.target, i.prompt)) for i in items]
                for split, items in self.items.items()
            },
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> TaskDigest:
        """What ``document`` was made from; another raises TypeError, ValueError or KeyError."""
        items = {s: tuple(ItemDigest(*text.split(" ")) for text in i) for s, i in document["items"].items()}
        return cls(dict(document["aspects"]), items)

    def having(self, aspect: str, text: str) -> TaskDigest:
        """The same with ``text`` for ``aspect``."""
        return replace(self, aspects={**self.aspects, aspect: text})

    def without(self, aspect: str) -> TaskDigest:
        """The same but for ``aspect``."""
        return replace(self, aspects={a: text for a, text in self.aspects.items() if a != aspect})

    def changes(self, now: TaskDigest) -> tuple[str, ...]:
        """What differs in ``now``, one phrase each."""
        found = [*_changed_items(self, now)]
        for aspect in dict.fromkeys((*self.aspects, *now.aspects)):
            old, new = self.aspects.get(aspect, "none"), now.aspects.get(aspect, "none")
            if old != new:
                told = aspect.endswith(" code")  # a digest says nothing
                found.append(f"{aspect} changed" if told else f"{aspect}: {old} -> {new}")
        return tuple(found)


@dataclass(frozen=True)
class ScoredDigest:
    """All tasks of a study. ``as_drawn``: few-shot examples as release 0.1.0 chose them."""

    tasks: Mapping[str, TaskDigest]
    as_drawn: bool = False

    def document(self) -> dict[str, Any]:
        """Plain JSON values, for ``from_document``."""
        return {
            "as_drawn": self.as_drawn,
            "tasks": {task: digest.document() for task, digest in self.tasks.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ScoredDigest:
        """What ``document`` was made from; another raises TypeError, ValueError or KeyError."""
        tasks = {task: TaskDigest.from_document(each) for task, each in document["tasks"].items()}
        return cls(tasks, bool(document["as_drawn"]))

    def by_task(self) -> dict[str, str]:
        """One short digest for each task, of what can be told without a model."""
        return {
            task: short_digest(digest.without(CHAT_TEMPLATE).document())
            for task, digest in self.tasks.items()
        }

    def changes(self, now: ScoredDigest) -> dict[str, tuple[str, ...]]:
        """By task that differs, what does."""
        found: dict[str, tuple[str, ...]] = {}
        for task in dict.fromkeys((*self.tasks, *now.tasks)):
            old, new = self.tasks.get(task), now.tasks.get(task)
            if old is None or new is None:
                found[task] = ("the task is new" if old is None else "the task is gone",)
            elif changes := old.changes(new):
                found[task] = changes
        return found


def _changed_items(old: TaskDigest, new: TaskDigest) -> list[str]:
    before = {item.name: (item, split) for split, items in old.items.items() for item in items}
    after = {item.name: (item, split) for split, items in new.items.items() for item in items}
    pairs = [(before[name], after[name]) for name in before if name in after]
    gone = [name for name in before if name not in after]
    by_question: dict[str, list[str]] = {}
    for name in after:
        if name not in before:
            by_question.setdefault(after[name][0].question, []).append(name)
    # The same question under another name: an item that was edited.
    edited = [
        (before[name], after[others.pop()])
        for name in gone
        if (others := by_question.get(before[name][0].question))
    ]
    removed = len(gone) - len(edited)
    added = sum(map(len, by_question.values()))
    both = pairs + edited
    targets = sum(a.target != b.target for (a, _), (b, _) in both)
    fields = sum(a.target == b.target for (a, _), (b, _) in edited)
    prompts = sum(a.prompt != b.prompt for (a, _), (b, _) in pairs)
    moved = sum(s != t for (_, s), (_, t) in both)
    counts = (
        (added, "added"),
        (removed, "removed"),
        (targets, "with other targets (gold answers or choices)"),
        (fields, "with other fields"),
        (prompts, "with another prompt"),
        (moved, "in another split"),
    )
    return [f"{n} item{'s' if n > 1 else ''} {what}" for n, what in counts if n]
