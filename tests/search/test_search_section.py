"""The ``search`` section: which settings belong to which sampler, what is shown, what is documented."""

from __future__ import annotations

from typing import Any

import pytest
from cli_support import EXPERIMENT
from pydantic import ValidationError
from sampler_support import SPACES
from support import ROOT

from evomerge.errors import ExperimentError
from evomerge.recipe import parse
from evomerge.report.tables import search_text
from evomerge.runs.experiment import ExperimentSpec
from evomerge.search.samplers import SAMPLERS
from evomerge.search.search_section import SearchSpec, read_search, search_model, stored_search


def message(search: Any) -> str:
    with pytest.raises(ExperimentError) as caught:
        parse(ExperimentSpec, {**EXPERIMENT, "search": search}, ExperimentError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ({"sampler": "cma"}, "search.sampler: there is no sampler 'cma'. Did you mean 'cma_es'?"),
        ({"sampler": ["random"]}, "search.sampler: input should be a valid string"),
        (
            {"sampler": "random", "sigma": 0.3},
            "search.sigma: is a setting of the sampler cma_es, and this search uses random. "
            "Remove it, or set search.sampler: cma_es.",
        ),
        ({"sigmma": 0.3}, "search.sigmma: there is no such field. Did you mean 'sigma'?"),
        ({"sampler": "random", "top": 3}, "search.top: there is no such field. Did you mean 'top_k'?"),
        ({"population": 3}, "search.population: must be at least 4 with this sampler, got 3"),
        ({"population": 0, "sampler": "random"}, "must be at least 1 with this sampler, got 0"),
        ({"sigma": 0.0}, "search.sigma: input should be greater than 0, got 0.0"),
        ({"sigma": float("nan")}, "search.sigma: input should be less than or equal to 1, got nan"),
        ({"sigma": 1.5}, "search.sigma: input should be less than or equal to 1, got 1.5"),
        ({"seed": -1}, "search.seed: input should be greater than or equal to 0, got -1"),
        ({"restarts": -1}, "search.restarts: input should be greater than or equal to 0, got -1"),
        ({"starts": []}, "search.starts: there is no such field"),
        (7, "search: input should be a valid dictionary"),
        (None, "search: input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_is_one_message_with_the_field(search: Any, text: str) -> None:
    assert text in message(search)


def test_every_wrong_field_is_in_one_message() -> None:
    text = message({"sampler": "random", "trials": 0, "sigma": 0.3, "seed": 1.5})
    assert "3 fields are wrong" in text
    for field in ("search.trials", "search.sigma", "search.seed"):
        assert field in text


def test_a_population_of_one_is_legal_where_the_sampler_allows_it() -> None:
    assert read_search({"sampler": "random", "population": 1}).settings.population == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_section_is_dumped_flat_and_read_back_as_it_was(name: str) -> None:
    section = read_search({"sampler": name, "population": "9.0", "trials": 7})
    dumped = section.model_dump(mode="json")
    common = {"sampler": name, "trials": 7, "lag": 0, "warm_start": None, "top_k": 5}
    assert dumped == {**common, **section.settings.model_dump()}
    assert read_search(dumped) == section == stored_search(dumped)


OLD = {"population": None, "restarts": None, "seed": 3, "sigma": 0.25, "top_k": 2, "trials": 9}
"""As release 0.1.0 stored it for every sampler."""


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_stored_section_is_read_without_the_settings_of_other_samplers(name: str) -> None:
    read = stored_search({"sampler": name, **OLD})
    assert read == read_search({"sampler": name, "seed": 3, "top_k": 2, "trials": 9})
    with_later = {"sampler": name, **OLD, "of_a_later_release": 1}
    assert stored_search(with_later) == read


def test_of_a_sampler_that_is_not_installed_the_common_fields_are_read_and_shown() -> None:
    read = stored_search({"sampler": "absent", **OLD})
    assert (read.sampler, read.trials, read.top_k) == ("absent", 9, 2)
    assert search_text(read, SPACES["floats"]) == "Search: absent, 9 candidates, lag 0"


def test_shown_are_the_settings_of_the_sampler_with_what_stands_for_those_not_given() -> None:
    dimensions = SPACES["floats"]
    assert search_text(read_search({}), dimensions) == (
        "Search: cma_es, 100 candidates, lag 0, population 8, seed 0, sigma 0.25, restarts as many as fit"
    )
    warm = read_search({"warm_start": "runs/old"})
    assert search_text(warm, dimensions).endswith(", starting from runs/old")
    section = read_search({"sampler": "random", "population": 3, "seed": 2})
    assert search_text(section, dimensions) == ("Search: random, 100 candidates, lag 0, population 3, seed 2")


# --- documentation -----------------------------------------------------------------------------------------


def documented(name: str) -> str:
    """The table of a sampler's settings as ``docs/experiment.md`` must have it."""
    made = SAMPLERS[name]
    rows = []
    for field, info in made.Settings.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        default = extra["if_none"] if info.default is None else info.default
        rows.append(f"| `{field}` | {default} | {info.description} |")
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows, "", ""])


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_documentation_has_the_settings_of_each_sampler_as_its_model_says(name: str) -> None:
    section = (ROOT / "docs" / "experiment.md").read_text().split(f"\n### `{name}`\n")[1]
    kinds = ", ".join(k for k in ("float", "int", "choice") if k in SAMPLERS[name].kinds)
    most = SAMPLERS[name].most_objectives
    about, table = section.split("\n\n| field", 1)
    assert about.endswith(f"Holes: {kinds}. Objectives: {'any number' if most is None else most}.")
    assert f"| field{table}".startswith(documented(name)), f"expected:\n{documented(name)}"
    assert f"at least {SAMPLERS[name].Settings.smallest_population}." in documented(name)


def test_the_documentation_has_every_common_field_and_its_default() -> None:
    text = (ROOT / "docs" / "experiment.md").read_text().split("\n## `search`\n")[1].split("\n### ")[0]
    for name, info in SearchSpec.model_fields.items():
        default = f"`{info.default}`" if isinstance(info.default, str) else info.default or "none"
        default = 0 if info.default == 0 else default
        assert f"| `{name}` | {default} |" in text


def test_no_sampler_takes_a_name_that_every_search_has() -> None:
    for name, made in SAMPLERS.items():
        assert not set(made.Settings.model_fields) & set(SearchSpec.model_fields)
        with pytest.raises(ValidationError):
            search_model(name)(nothing=1)  # type: ignore[call-arg]
