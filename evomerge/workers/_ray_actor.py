"""The actor: what runs in a worker's own process, how that is set up, and how its failures are read."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evomerge.errors import UserError
from evomerge.workers._ray_cluster import Share
from evomerge.workers.executor import MakeWorker, WorkerLike
from evomerge.workers.jobs import Job, Outcome

if TYPE_CHECKING:
    from ray.exceptions import RayTaskError

__all__ = ["cause_of_death", "deaths", "new_actor", "raise_as_raised"]

_PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM")
"""Settings that must not differ between driver and workers; the nodes of a cluster have their own."""


class _Host:
    """The actor: builds the worker in its own process and passes it jobs."""

    def __init__(self, make_worker: bytes) -> None:
        # Still pickled: what goes wrong in unpickling is then an error of `build`, not a dead actor.
        self._make_worker = make_worker
        self._worker: WorkerLike | None = None

    def hello(self) -> None:
        pass

    def build(self) -> None:
        from ray import cloudpickle

        if self._worker is None:
            self._worker = cloudpickle.loads(self._make_worker)()

    def run(self, job: Job) -> Outcome:
        if self._worker is None:
            raise RuntimeError("a job came before its worker was built")
        return self._worker.run(job)

    def close(self) -> None:
        close = getattr(self._worker, "close", None)
        if close is not None:
            close()


def new_actor(make_worker: MakeWorker, share: Share, threads: int) -> Any:
    """The handle of an actor that will start where ``share`` is free; returns at once.

    Its calls, in order: ``hello`` (answered when the process runs), ``build``, ``run`` of a job, ``close``.
    """
    import ray
    from ray import cloudpickle

    host: Any = ray.remote(_Host)
    return host.options(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_restarts=0,  # a dead actor is ours to count and to replace
        max_task_retries=0,
        runtime_env={"env_vars": _environment(threads)},
    ).remote(cloudpickle.dumps(make_worker))  # type: ignore[no-untyped-call]


def deaths() -> tuple[type[Exception], ...]:
    """What a call raises when the process or the node of its actor has gone."""
    from ray import exceptions

    return (
        exceptions.RayActorError,  # ActorDiedError, ActorUnavailableError
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )


def cause_of_death(error: Exception) -> str:
    """Ray's reason without process ids and advice, so that equal causes have equal texts."""
    found = re.search(r"dead because ([^.]+)\.(?: Worker exit type: (\w+))?", str(error))
    if found is None:
        return type(error).__name__
    because, exit_type = found.groups()
    return f"{because} ({exit_type})" if exit_type else str(because)


def raise_as_raised(error: RayTaskError) -> NoReturn:
    """Raises what the worker raised, not Ray's wrapping of it."""
    cause = error.cause
    if isinstance(cause, UserError):
        raise cause from None
    if isinstance(cause, Exception) and cause is not error:
        raise cause from error
    raise error


def _environment(threads: int) -> dict[str, str]:
    """Environment variables of a worker's process, set before it imports anything."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed_on,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # workers share a machine; spinning threads cost each other a factor
        "PYTHONPATH": os.pathsep.join(_import_paths()),
    }


def _import_paths() -> list[str]:
    """Where the driver imports from, without what every environment has of its own."""
    own = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    paths = dict.fromkeys(Path(entry).resolve() for entry in sys.path)  # "" is the current folder
    return [str(p) for p in paths if p.is_dir() and p not in own and own.isdisjoint(p.parents)]
