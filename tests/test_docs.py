"""The documentation names files that exist, and its lines are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = [ROOT, ROOT / "evomerge", ROOT / "evomerge" / "search", ROOT / "docs"]
_QUOTED = re.compile(r"`([\w./-]+/[\w.*-]+\.(?:py|md|yml))`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
_USERS = re.compile(r"^(runs/|models/|out/|\./)|(^|/)(best|experiment|recipe|e|r)\.yml$")
"""Paths in examples that a user has."""


def there(text: str, page: Path) -> bool:
    return any(list(folder.glob(text)) for folder in (*FOLDERS, page.parent))


PRESENT = [p for p in DOCS if p.name != "CHANGELOG.md" and p.parent.name != "decisions"]
"""Pages about how things are; the others name what there was."""


@pytest.mark.parametrize("page", PRESENT, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = [t for t in _QUOTED.findall(text) if not _USERS.search(t)]
    assert [t for t in named if not there(t, page)] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [t for t in _LINK.findall(text) if not t.startswith("http")]
    assert [t for t in links if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_of_prose_are_short(page: Path) -> None:
    long = [line for line in page.read_text().splitlines() if len(line) > 120 and not line.startswith("|")]
    assert [line for line in long if " " in line.strip()[100:]] == []
