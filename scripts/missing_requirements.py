"""What an environment lacks of evomerge's requirements, without touching what it has; for scripts/test-vllm.

    missing_requirements.py CONSTRAINTS NEEDED PINS

Writes to NEEDED the requirements that are not installed, and to PINS the versions of all that is installed,
with those of CONSTRAINTS for all that is not.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TESTS = ("pytest", "pytest-timeout", "hypothesis", "peft")


def main(constraints: Path, needed: Path, pins: Path) -> None:
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *TESTS)]
    needed.write_text("".join(f"{r}\n" for r in wanted if canonicalize_name(r.name) not in installed))
    kept = [f"{name}=={version}" for name, version in sorted(installed.items()) if name != "evomerge"]
    others = [line for line in constraints.read_text().split() if _name(line) not in installed]
    pins.write_text("\n".join([*kept, *others]) + "\n")


def _name(line: str) -> str:
    return canonicalize_name(Requirement(line).name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
