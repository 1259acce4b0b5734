"""The command line as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import Cli, environment


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes an experiment file into the test's folder."""

    def write_file(document: dict[str, Any]) -> Path:
        path = tmp_path / "experiment.yml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    return write_file


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs ``evomerge`` in the test's folder, in a process of its own."""

    def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "evomerge.cli.main", *map(str, arguments)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
