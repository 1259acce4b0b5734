"""A search in a process of its own, to be killed: ``chaos_driver.py STORAGE_URL SEED_OF_FINISHING_ORDER``."""

from __future__ import annotations

import sys

from search_fakes import FakeExecutor, make_plan

from evomerge.search.controller import search
from evomerge.search.study import Study

if __name__ == "__main__":
    url, order = sys.argv[1:]
    plan = make_plan(trials=60)
    print("ready", flush=True)  # noqa: T201
    study = Study.open(url, "chaos", document={}, dimensions=plan.space.dimensions)
    search(plan, study, FakeExecutor(order=int(order), seconds=0.004))
    print(study.digest(), flush=True)  # noqa: T201
    study.close()
