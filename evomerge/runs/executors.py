"""The executor that an experiment's ``workers`` section asks for."""

from __future__ import annotations

from dataclasses import replace

from evomerge.fitness.scored import ScoredDigest
from evomerge.runs.experiment import Experiment
from evomerge.workers.executor import Executor
from evomerge.workers.inline import InlineExecutor
from evomerge.workers.worker import WorkerSpec

__all__ = ["make_executor", "worker_spec"]


def worker_spec(experiment: Experiment, scored: ScoredDigest | None = None) -> WorkerSpec:
    """What each worker of ``experiment`` is told.

    ``scored``: what the driver scores, for each worker to compare with its own tasks.
    """
    workers = experiment.spec.workers
    return WorkerSpec(
        models=tuple(experiment.references.items()),
        fitness=experiment.fitness,
        folder=experiment.path.parent.absolute(),
        device=workers.device,
        dtype=workers.dtype,
        threads=workers.threads,
        engine=experiment.engine,
        as_drawn=scored is not None and scored.as_drawn,
        scored=None if scored is None else scored.by_task(),
        engine_args=workers.engine_args or {},
        quantization=workers.quantization,
    )


def make_executor(experiment: Experiment, scored: ScoredDigest | None = None) -> Executor:
    """Workers for ``experiment``, which start with their first job; its owner closes it.

    ``scored``: see ``worker_spec``.
    """
    workers, spec = experiment.spec.workers, worker_spec(experiment, scored)
    if workers.backend == "inline":
        return InlineExecutor(replace(spec, timeout_s=workers.timeout))
    from evomerge.workers.ray_executor import RayExecutor  # Ray takes a second to import

    return RayExecutor(
        spec,
        workers.count,
        gpus_per_worker=workers.gpus_per_worker,
        address=workers.address,
        timeout_s=workers.timeout,
        max_attempts=workers.max_attempts,
        threads=workers.threads,
    )
