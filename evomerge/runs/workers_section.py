"""The ``workers`` section of an experiment: who makes and scores the candidates, and with what."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    field_validator,
    model_validator,
)

from evomerge.backends.registry import BACKENDS
from evomerge.errors import did_you_mean
from evomerge.recipe import as_number
from evomerge.search.samplers import Whole

__all__ = ["SCORED_BY", "WorkersSpec"]

SCORED_BY = {"dtype", "engine", "engine_args", "quantization"}
"""What changes bits of scores: part of the study's document."""

_Positive = Annotated[Whole, Field(ge=1)]
_Seconds = Annotated[StrictInt | StrictFloat, BeforeValidator(as_number), Field(gt=0, le=10**9)]


class WorkersSpec(BaseModel):
    """The ``workers`` section: who makes and scores the candidates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["inline", "ray"] = Field(
        default="inline", description="inline: in this process, one at a time; ray: several, or a cluster."
    )
    count: _Positive = Field(default=1, description="Workers. More than one needs the backend ray.")
    device: str = Field(default="auto", description="auto (a GPU if there is one), cpu, cuda, cuda:1 ...")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="What models calculate in when they are scored; the dtype of the merge if not given. "
        "Weights are rounded to the dtype of the merge first, whatever this is.",
    )
    threads: _Positive = Field(default=1, description="CPU threads of a worker.")
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="GPUs that Ray sets aside for a worker; 0.5 = two workers share one."
    )
    timeout: _Seconds | None = Field(default=None, description="Seconds after which a candidate is given up.")
    max_attempts: _Positive = Field(
        default=2,
        description="How often a candidate is tried before it counts as failed, where its workers die "
        "(backend ray). The old name retries is read, too.",
    )
    address: str | None = Field(
        default=None, description="Ray cluster to join (auto, or host:port); a local one if not given."
    )

    engine: str | None = Field(
        default=None,
        description="What runs the models. transformers: requests of all tasks together; lm_eval: as lm-eval "
        "itself runs transformers, one task after the other; vllm: vLLM, with the merge inside its own "
        "workers. As the study was begun if not given, and a new one with transformers.",
    )
    engine_args: dict[str, Any] | None = Field(
        default=None, description="Arguments of the engine, by the names that vLLM's EngineArgs have."
    )
    quantization: str | None = Field(
        default=None,
        description="How the engine stores the weights it calculates with; as they are if not given.",
    )

    @property
    def chosen_engine(self) -> str:
        """What runs the models of a new study."""
        return self.engine or "transformers"

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, given: Any) -> Any:
        # Release 0.1.0 called it retries, and counted attempts.
        if isinstance(given, dict) and "retries" in given and "max_attempts" not in given:
            return {("max_attempts" if k == "retries" else k): value for k, value in given.items()}
        return given

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str | None) -> str | None:
        if engine is not None and engine not in BACKENDS:
            raise ValueError(f"there is no engine {engine!r}. {did_you_mean(engine, BACKENDS)}")
        return engine

    @model_validator(mode="after")
    def _for_an_engine(self) -> Self:
        for field in ("engine_args", "quantization"):
            if self.engine in (None, "transformers", "lm_eval") and getattr(self, field) is not None:
                raise ValueError(f"{field} needs an engine that has it: set engine: vllm")
        return self

    @model_validator(mode="after")
    def _one_inline(self) -> Self:
        if self.backend == "inline" and self.count > 1:
            raise ValueError("the backend inline has one worker; set backend: ray for more")
        return self
