"""Opens a study to write to it and holds it until its input ends: ``holding_driver.py STORAGE_URL``."""

from __future__ import annotations

import sys

import sqlalchemy  # noqa: F401 (loaded before the start is given, so that several start at once)
from search_fakes import make_plan

from evomerge.errors import StudyError
from evomerge.study.study import Study

if __name__ == "__main__":
    import optuna.storages  # noqa: F401

    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    try:
        study = Study.open(sys.argv[1], "held", document={}, dimensions=make_plan().space.dimensions)
    except StudyError as error:
        print("refused", error, flush=True)  # noqa: T201
    else:
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()
        study.close()
