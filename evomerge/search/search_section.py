"""The ``search`` section of an experiment file: what every search has, and the settings of its sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    field_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from evomerge.errors import did_you_mean
from evomerge.recipe import Dimension
from evomerge.search.samplers import SAMPLERS, SamplerSettings, Whole, settings_with_defaults
from evomerge.study.storage import redact

__all__ = ["SearchSpec", "read_search", "search_model", "stored_search"]

_DEFAULT = "cma_es"


class SearchSpec(BaseModel):
    """The ``search`` section, which ``read_search`` reads: a subclass has the settings of the sampler too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str = Field(default=_DEFAULT, description="How candidates are proposed.")
    trials: Annotated[Whole, Field(ge=1)] = Field(
        default=100,
        description="Candidates of all runs together, besides the baselines. May grow from run to run.",
    )
    lag: Annotated[Whole, Field(ge=0, le=10_000)] = Field(
        default=0,
        description="How many candidates may be proposed beyond the end of a generation that is still being "
        "scored, so that no worker waits for the slowest; about twice the number of workers.",
    )
    warm_start: str | tuple[str, ...] | None = Field(
        default=None,
        description="A study (its folder, name, experiment file or STORAGE_URL#NAME) or a list of recipe "
        "files: their best points are the first candidates, and results of equal recipes are taken over.",
    )
    top_k: Annotated[Whole, Field(ge=1)] = Field(
        default=5, description="Best candidates that are compared on validation items after the search."
    )

    @property
    def settings(self) -> SamplerSettings:
        """The settings of the sampler."""
        model = SAMPLERS[self.sampler].Settings
        return model.model_validate({name: getattr(self, name) for name in model.model_fields})

    def with_defaults(self, dimensions: Sequence[Dimension]) -> dict[str, Any]:
        """Every field by name, with what stands for those that are not given in a space of ``dimensions``."""
        common = self.model_dump(include=set(SearchSpec.model_fields))
        if self.sampler not in SAMPLERS:  # read from a study; the package that has it is not installed
            return common
        return {**common, **settings_with_defaults(self.settings, dimensions)}

    @field_serializer("warm_start")
    def _without_password(self, warm_start: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        # What is dumped is shown, and stored in the study.
        return redact(warm_start) if isinstance(warm_start, str) else warm_start

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Names the sampler that an unknown field belongs to, if there is one."""
        try:
            return handler(given)
        except ValidationError as exception:
            found = [cls._explain_error(e) for e in exception.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, found) from None

    @classmethod
    def _explain_error(cls, error: Any) -> InitErrorDetails:
        details = InitErrorDetails(
            type=error["type"], loc=error["loc"], input=error["input"], ctx=error.get("ctx", {})
        )
        if error["type"] == "extra_forbidden":
            details["type"] = _wrong(*cls._not_ours(error))
        return details

    @classmethod
    def _not_ours(cls, error: Any) -> tuple[str, str]:
        field, mine = str(error["loc"][-1]), str(cls.model_fields["sampler"].default)
        others = [name for name, other in SAMPLERS.items() if field in other.Settings.model_fields]
        if not others:
            return "there is no such field", did_you_mean(field, cls.model_fields)
        return (
            f"is a setting of the sampler {' or '.join(others)}, and this search uses {mine}",
            f"Remove it, or set search.sampler: {others[0]}.",
        )


@cache
def search_model(sampler: str) -> type[SearchSpec]:
    """The schema of the section with the settings of the registered ``sampler``."""
    bases: Any = (SearchSpec, SAMPLERS[sampler].Settings)
    field: Any = (str, Field(default=sampler, description=SearchSpec.model_fields["sampler"].description))
    make: Any = create_model  # mypy's plugin would read this as a class statement
    model: type[SearchSpec] = make(f"SearchSpec[{sampler}]", __base__=bases, sampler=field)
    return model


def read_search(section: Any) -> Any:
    """The section as it is written, with the settings of its sampler; anything but a mapping as it is.

    Raises:
        ValidationError: A field is wrong.
    """
    if not isinstance(section, Mapping):
        return section
    name = section.get("sampler", _DEFAULT)
    if not isinstance(name, str):
        return SearchSpec.model_validate({"sampler": name})
    if name not in SAMPLERS:
        hint = " ".join((did_you_mean(name, SAMPLERS), *SAMPLERS.failures))
        problem = _wrong(f"there is no sampler {name!r}", hint)
        details = InitErrorDetails(type=problem, loc=("sampler",), input=name)
        raise ValidationError.from_exception_data(SearchSpec.__name__, [details])
    return search_model(name).model_validate(section)


def stored_search(section: Mapping[str, Any]) -> SearchSpec:
    """The section as a study holds it; of a sampler that is not installed, only what every search has.

    What is not a field of it is left out: release 0.1.0 stored the settings of every sampler, and a later
    release may store some that this one does not know.
    """
    name = section.get("sampler", _DEFAULT)
    model = search_model(name) if name in SAMPLERS else SearchSpec
    return model.model_validate({key: value for key, value in section.items() if key in model.model_fields})


def _wrong(reason: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("value_error", "{reason}", {"reason": reason, "hint": hint})
