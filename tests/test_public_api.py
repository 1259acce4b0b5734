"""The public names are those that are meant to be."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_support import environment

import evomerge


def test_every_public_name_can_be_imported() -> None:
    code = "import evomerge\nfor n in evomerge.__all__: assert getattr(evomerge, n).__name__ == n, n"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def test_the_lists_of_public_names_agree() -> None:
    assert sorted(evomerge.__all__) == evomerge.__all__
    assert set(evomerge._HOMES) == set(evomerge.__all__)


def test_importing_evomerge_imports_nothing_else() -> None:
    code = "import sys, evomerge; print(sorted(m for m in sys.modules if m.startswith('evomerge')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['evomerge']"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Recipes'"):
        _ = evomerge.Recipes
