"""The Ray that workers run on: started here or joined, and the resources it has for them."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import Any

from evomerge.errors import UserError

__all__ = ["Share", "check_resources", "free", "start_or_join"]

_CONNECT_S = 5.0

_OBJECT_STORE_BYTES = 100 * 2**20
"""Jobs and outcomes are some kilobytes; Ray's own default is 30 % of the machine's memory."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """A part of a node, or of a cluster: what one worker needs, or what is there."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"

    def holds(self, part: Share) -> int:
        """How many times ``part`` fits."""
        by_gpu = self.gpus / part.gpus if part.gpus else math.inf
        return math.floor(min(self.cpus / part.cpus, by_gpu) + 1e-9)


def start_or_join(address: str | None, cpus: int) -> None:
    """A Ray of our own on this machine, or the cluster at ``address``.

    Raises:
        UserError: the cluster cannot be reached.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    in_main = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        if address is not None:
            _probe(address)
            ray.init(address=address, **quiet)
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # telemetry
            ray.init(
                address="local",  # not whatever RAY_ADDRESS names
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        reason = f"no Ray cluster can be joined at {address!r}: {str(error).strip().splitlines()[0]}"
        raise UserError(
            "workers.address",
            reason,
            "Is it running, with the same versions and the same token (RAY_AUTH_TOKEN)?",
        ) from error
    finally:
        if callable(on_sigterm):  # Ray puts its own in place, which only exits
            signal.signal(signal.SIGTERM, on_sigterm)
    # Ray reports each dead worker on the driver's *stdout*, where `--json` writes; `log_to_driver` does not
    # cover that, this switch (which Ray's own debugger uses) does.
    ray._private.worker._worker_logs_enabled = False  # noqa: SLF001


def check_resources(count: int, need: Share) -> None:
    """Check that the nodes, if idle, have resources for ``count`` workers; a warning for fewer.

    Raises:
        UserError: there are no resources for one.
    """
    nodes = _nodes()
    capacity = sum(node.holds(need) for node in nodes)
    if capacity == 0:
        there = "; ".join(map(str, nodes)) or "none"
        raise UserError(
            "workers",
            f"each worker needs {need}, and no node has as much (nodes: {there})",
            "Ask for less per worker, or add a node that has it.",
        )
    if capacity < count:
        _log.warning("There are resources for %d of the %d workers asked for", capacity, count)


def free() -> Share:
    """The unallocated resources, over all nodes."""
    import ray

    return _share(ray.available_resources())  # type: ignore[no-untyped-call]


def _nodes() -> list[Share]:
    """What each living node has, whether free or taken."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [_share(node["Resources"]) for node in nodes if node["Alive"]]


def _share(resources: dict[str, float]) -> Share:
    return Share(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _probe(address: str) -> None:
    """Raises ``OSError`` if nothing listens at ``host:port``; Ray itself keeps trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
