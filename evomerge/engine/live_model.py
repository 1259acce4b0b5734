"""The resident model that candidates are written into: the one door to transformers' models."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.engine.plan import MergePlan
from evomerge.errors import CheckpointError

__all__ = ["LiveModel"]


class LiveModel:
    """A transformers model built from a configuration, with uninitialised weights of one dtype on one device.

    ``place(name)`` is the tensor of the model that a tensor of the checkpoint belongs to. It never aliases a
    source: candidates are copied in.
    """

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        self._config = json.dumps(config, sort_keys=True)
        self._dtype = dtype
        self.module = _build(config, dtype, device)
        self._places: dict[str, Tensor] = {
            **dict(self.module.named_parameters(remove_duplicate=False)),
            **dict(self.module.named_buffers(remove_duplicate=False)),
        }

    def fits(self, config: Mapping[str, Any], dtype: torch.dtype) -> bool:
        """Whether this is the model that ``config`` and ``dtype`` ask for."""
        return self._dtype == dtype and self._config == json.dumps(config, sort_keys=True)

    def check(self, plan: MergePlan) -> None:
        """Whether the plan fills the model: every tensor has its place and every weight its tensor.

        Raises:
            CheckpointError: Naming what does not fit.
        """
        strangers = [t.name for t in plan.tensors if t.name not in self._places]
        if strangers:
            raise CheckpointError(
                plan.donor,
                f"tensors have no place in {type(self.module).__name__}: {', '.join(strangers[:8])}",
            )
        filled = {self._places[t.name].data_ptr() for t in plan.tensors}
        persistent = dict(self.module.state_dict(keep_vars=True))
        empty = [n for n, t in persistent.items() if t.numel() and t.data_ptr() not in filled]
        if empty:
            raise CheckpointError(
                plan.donor,
                f"the checkpoint lacks weights of {type(self.module).__name__}: {', '.join(empty[:8])}",
            )

    def place(self, name: str) -> Tensor:
        """The parameter or buffer called ``name``, as rows: (R, C), sharing its memory."""
        data = self._places[name].data
        return data.view(1, -1) if data.dim() < 2 else data.view(-1, data.shape[-1])


def _build(config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> nn.Module:
    """An empty model: the class that the configuration names, with nothing drawn at random."""
    import transformers
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    try:
        with _quiet():
            parsed = AutoConfig.for_model(**_without_transformers_version(config))
            name = next(iter(parsed.architectures or []), None)
            model_class = getattr(transformers, name, None) if name else None
            if model_class is None:
                raise ValueError(f"transformers has no class {name!r}")
            with no_init_weights(), torch.device(device):
                module: nn.Module = model_class._from_config(parsed, dtype=dtype)  # noqa: SLF001
    except (ValueError, KeyError, TypeError, AttributeError) as exception:
        raise CheckpointError("config.json", f"no model can be built from it ({exception})") from None
    module.tie_weights()  # type: ignore[operator]
    module.requires_grad_(requires_grad=False)
    return module.eval()


def _without_transformers_version(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k != "transformers_version"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice for people who train."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
