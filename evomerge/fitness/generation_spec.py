"""The ``generation`` section of a fitness, or of one task: options of lm-eval's generated answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from evomerge.errors import FitnessError
from evomerge.recipe import as_number, whole

__all__ = ["LENGTH_KEYS", "OWN_KEYS", "GenerationSpec", "generation_options"]

LENGTH_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the longest answer, the first that is given wins."""

OWN_KEYS = ("seed", "think_end_token")
"""Options of a request beside lm-eval's own; see ``EvalLM``."""

_SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p")

_Whole = Annotated[StrictInt, BeforeValidator(whole)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(as_number)]
_Text = Annotated[StrictStr, Field(min_length=1)]


def _one_or_more(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


class GenerationSpec(BaseModel):
    """What replaces the generation options of a task. In a task, what is not given is as for all tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_gen_toks: Annotated[_Whole, Field(ge=1)] | None = Field(
        default=None, description="Tokens of the longest answer."
    )
    until: Annotated[tuple[_Text, ...], BeforeValidator(_one_or_more)] | None = Field(
        default=None, description="Texts that end an answer; none: only the end-of-text token does."
    )
    do_sample: StrictBool | None = Field(
        default=None, description="Whether answers are drawn at random; follows from temperature."
    )
    temperature: Annotated[_Number, Field(ge=0.0)] | None = Field(
        default=None, description="0: the most likely token each time; above, drawn at random."
    )
    top_p: Annotated[_Number, Field(gt=0.0, le=1.0)] | None = Field(
        default=None, description="Draw from the likeliest tokens that have this probability together."
    )
    top_k: Annotated[_Whole, Field(ge=0)] | None = Field(
        default=None, description="Draw from so many of the likeliest tokens; 0: from all."
    )
    min_p: Annotated[_Number, Field(ge=0.0, le=1.0)] | None = Field(
        default=None, description="Draw from tokens that have this share of the likeliest one's probability."
    )
    repetition_penalty: Annotated[_Number, Field(gt=0.0)] | None = Field(
        default=None, description="Above 1: tokens that occurred become less likely."
    )
    seed: Annotated[_Whole, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="Another seed, other draws; one is fixed if not given."
    )

    def over(self, general: GenerationSpec | None) -> GenerationSpec:
        """This one with what it leaves out from ``general``."""
        rest = {} if general is None else general.given()
        return self.model_copy(update={**rest, **self.given()})

    def given(self) -> dict[str, Any]:
        """The options that are set."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in found.items() if value is not None}


def generation_options(task: Mapping[str, Any], spec: GenerationSpec, where: str) -> dict[str, Any]:
    """lm-eval's ``generation_kwargs`` of a ``task`` with those that ``spec`` gives in their place.

    Raises:
        FitnessError: They do not go together; ``where`` names the task.
    """
    given = spec.given()
    options = {key: value for key, value in task.items() if key not in _replaced(given)}
    options |= {key: list(value) if key == "until" else value for key, value in given.items()}
    if "do_sample" not in given and "temperature" in given:
        options["do_sample"] = given["temperature"] > 0.0
    if not options.get("do_sample", float(options.get("temperature") or 0.0) > 0.0):
        _refuse_without_effect(given, where)
        return {key: value for key, value in options.items() if key not in (*_SAMPLING_KEYS, "seed")}
    if float(options.get("temperature") or 0.0) <= 0.0:
        raise FitnessError(
            f"{where}: generation.temperature",
            "must be above 0 where answers are sampled (do_sample: true)",
            "Set temperature: 1.0 for the model's own probabilities, or do_sample: false.",
        )
    return options


def _replaced(given: Mapping[str, Any]) -> tuple[str, ...]:
    return LENGTH_KEYS if "max_gen_toks" in given else ()


def _refuse_without_effect(given: Mapping[str, Any], where: str) -> None:
    idle = [key for key in _SAMPLING_KEYS if key in given and not (key == "temperature" and not given[key])]
    if idle:
        raise FitnessError(
            f"{where}: generation.{idle[0]}",
            "has no effect, as answers are not sampled",
            "Set do_sample: true with a temperature above 0, or leave it out.",
        )
