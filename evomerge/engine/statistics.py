"""Statistics of the inputs, measured once per tensor and study."""

from __future__ import annotations

import threading
from typing import Any

from evomerge.engine.plan import TensorPlan
from evomerge.kernels import Chunks, nothing, take_measure
from evomerge.methods import MergeMethod

__all__ = ["Statistics"]


class Statistics:
    """Measured once per tensor and study: no searched parameter changes them. Safe to use from many threads.

    Keys are the inputs and the measure, so any two candidates that combine the same tensors share them.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def get(self, tensor: TensorPlan, method: MergeMethod, chunks: Chunks) -> Any:
        """The statistic of the tensor's inputs, measured if this is the first time."""
        measure = method.measure(dict(tensor.parameters))
        if measure is nothing:
            return None
        key = (measure.name, tensor.inputs)
        with self._lock:
            if key in self._values:
                return self._values[key]
        # Two threads may measure the same tensor at once; they get the same value.
        value = take_measure(measure, chunks)
        with self._lock:
            return self._values.setdefault(key, value)

    def forget(self, model: str) -> None:
        """Forgets what was measured on tensors of ``model``."""
        with self._lock:
            gone = [key for key in self._values if any(part.model == model for part in key[1])]
            for key in gone:
                del self._values[key]

    def clear(self) -> None:
        """Forgets everything; it is measured again when needed."""
        with self._lock:
            self._values.clear()
