"""A study as plain values, for programs to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evomerge.recipe import Dimension
from evomerge.report.agreement_text import agreement_document
from evomerge.report.verdict_text import verdict_document
from evomerge.search.agreement import Agreement
from evomerge.search.leaderboard import Row
from evomerge.search.search_section import SearchSpec
from evomerge.search.verdict import Verdict
from evomerge.study.study import AcceptedDrift, Driver, Study, Trial, versions_text

__all__ = [
    "drift_document",
    "drift_text",
    "driver_text",
    "leaderboard_markdown",
    "other_measure",
    "row_document",
    "search_text",
    "study_document",
    "trial_document",
]


def trial_document(trial: Trial) -> dict[str, Any]:
    """A trial without its items."""
    same = {} if trial.same_weights_as is None else {"same_weights_as": trial.same_weights_as}
    return {
        "number": trial.number,
        "name": trial.name,
        "kind": trial.kind,
        "generation": trial.generation,
        "index": trial.index,
        "score": trial.score,
        "values": dict(trial.parameters),
        "tasks": {t.task: t.value for t in trial.scores.tasks} if trial.scores is not None else None,
        "failure": None if trial.failure is None else asdict(trial.failure),
        "fingerprint": trial.fingerprint,
        "cached_from": trial.cached_from,
        "seconds": asdict(trial.seconds),
        **same,
    }


def row_document(row: Row) -> dict[str, Any]:
    """A row of the leaderboard."""
    return {
        "name": row.name,
        "number": row.trial.number,
        "kind": row.trial.kind,
        "winner": row.winner,
        "search": row.search,
        "validation": row.validation,
        "test": row.test,
        "test_interval_95": None if row.low is None else [row.low, row.high],
        "tasks": [asdict(task) for task in row.tasks],
        "fingerprint": row.trial.fingerprint,
        **({} if row.measure == "metric" else {"measure": row.measure, "search_metric": row.search_metric}),
    }


def search_text(search: SearchSpec, dimensions: Sequence[Dimension]) -> str:
    """The settings of a search on one line; the population is that of the first generation."""
    fields = search.with_defaults(dimensions)
    del fields["top_k"]  # of what comes after the search
    parts = [f"Search: {fields.pop('sampler')}", f"{fields.pop('trials')} candidates"]
    warm_start = fields.pop("warm_start", None)
    parts += [f"{name} {value}" for name, value in fields.items()]
    if warm_start is not None:
        parts.append(f"starting from {warm_start if isinstance(warm_start, str) else ', '.join(warm_start)}")
    return ", ".join(parts)


def driver_text(driver: Driver) -> str:
    """The driver of a study, on one line."""
    who = f"process {driver.pid} on {driver.host}, since {driver.since} UTC"
    if driver.alive:
        return f"Driver: {who}; alive, last sign of life {driver.silent_s:.0f} s ago"
    return (
        f"Driver: {who}; dead, so the next search takes over (last sign of life {driver.silent_s:.0f} s ago)"
    )


def drift_text(drift: AcceptedDrift) -> str:
    """A drift that was accepted under release 0.1.0, on one line."""
    changed = versions_text(drift.changed) or "no version changed"
    return f"Drift accepted after {drift.candidates} candidates: {changed}"


def drift_document(drift: AcceptedDrift) -> dict[str, Any]:
    """A drift that was accepted."""
    return {
        "after_generations": drift.generations,
        "after_candidates": drift.candidates,
        "changed": {d.field: {"old": d.old, "new": d.new} for d in drift.changed},
        "versions": dict(drift.versions),
    }


def leaderboard_markdown(rows: Sequence[Row]) -> str:
    """The leaderboard as a Markdown table, the winner in bold; ends with a line break."""
    tasks = list(dict.fromkeys(t.task for row in rows for t in row.tasks))
    measured = other_measure(rows)
    head = [
        "model",
        *([] if measured is None else [measured]),
        "search",
        "validation",
        "test",
        "95 % interval",
        *tasks,
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        values = {t.task: t.test if row.test is not None else t.search for t in row.tasks}
        interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        search = (row.search,) if measured is None else (row.search, row.search_metric)
        numbers = [*map(_number, (*search, row.validation, row.test)), interval]
        cells = [_cell(row.name), *numbers, *(_number(values.get(task)) for task in tasks)]
        lines.append([f"**{c}**" if row.winner and c else c for c in cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def other_measure(rows: Sequence[Row]) -> str | None:
    """What the search was by, where that is not the tasks' own metrics."""
    return next((row.measure for row in rows if row.measure != "metric"), None)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def study_document(
    study: Study, rows: Sequence[Row], verdict: Verdict | None = None, agreement: Agreement | None = None
) -> dict[str, Any]:
    """What ``search --json`` and ``status --json`` print."""
    trials, driver = study.trials(), study.driver()
    return {
        "study": study.name,
        "storage": study.url,
        "candidates": len(study.candidates()),
        "failed": sum(1 for t in trials if t.failed),
        "generations": len(study.generations()),
        "search": study.document["search"],
        "driver": None if driver is None else asdict(driver),
        "versions": study.versions,
        "accepted_drifts": [drift_document(d) for d in study.accepted_drifts],
        "leaderboard": [row_document(row) for row in rows],
        "verdict": verdict_document(verdict),
        **({} if agreement is None else {"agreement": agreement_document(agreement)}),
        "trials": [trial_document(t) for t in trials],
    }
