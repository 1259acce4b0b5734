"""The engine of an experiment: what it may be, what is refused without it, what a study keeps of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import EXPERIMENT, changed
from support import ROOT

from evomerge.backends.vllm_settings import vllm_is_installed
from evomerge.errors import ExperimentError
from evomerge.runs.executors import make_executor
from evomerge.runs.experiment import FREE_FIELDS, Experiment, read_document
from evomerge.runs.preflight import preflight
from evomerge.study.manifest import Manifest
from evomerge.workers.inline import InlineExecutor


def load(folder: Path, **workers: Any) -> Experiment:
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(changed("workers", {**EXPERIMENT["workers"], **workers})))
    return Experiment.load(path)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown engine": ({"engine": "vlm"}, r"workers.engine: there is no engine 'vlm'\. Did you mean 'vllm'"),
    "arguments of no engine": (
        {"engine_args": {"max_model_len": 9}},
        "workers: engine_args needs an engine that has it: set engine: vllm",
    ),
    "quantization by no engine": (
        {"quantization": "mxfp8"},
        "workers: quantization needs an engine that has it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_found_when_the_file_is_read(name: str, tmp_path: Path) -> None:
    workers, message = BAD[name]
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, **workers)


@pytest.mark.skipif(vllm_is_installed(), reason="vLLM is installed")
def test_without_vllm_the_line_that_installs_it_is_said_before_a_search(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"workers.engine: vLLM is not installed\. Install it: pip install"
    ):
        preflight(load(tmp_path, engine="vllm"))


def test_a_quantization_that_needs_a_quantized_model_is_refused_by_name(tmp_path: Path) -> None:
    experiment = load(tmp_path, engine="vllm", quantization="awq")
    with pytest.raises(ExperimentError, match=r"workers\.quantization: .awq. is none that vLLM makes anew"):
        preflight(experiment)


def test_engine_its_arguments_and_quantization_belong_to_the_study(tmp_path: Path) -> None:
    plain = load(tmp_path).document({})
    for workers in (
        {"engine": "vllm"},
        {"engine": "vllm", "engine_args": {"max_num_seqs": 8}},
        {"engine": "vllm", "quantization": "mxfp8"},
    ):
        other = load(tmp_path, **workers).document({})
        differences = Manifest.of(plain).differences(other, FREE_FIELDS, read_document)
        assert {d.field for d in differences} >= {f"workers.{field}" for field in workers}


def test_a_study_from_before_engines_were_chosen_goes_on_as_lm_eval_ran_it(tmp_path: Path) -> None:
    before = {**load(tmp_path).document({}), "workers": {"dtype": "float32"}}
    going_on = load(tmp_path).of_study(before).document({})
    assert Manifest.of(before).differences(going_on, FREE_FIELDS, read_document) == ()
    vllm = load(tmp_path, engine="vllm").of_study(before).document({})
    assert [d.field for d in Manifest.of(before).differences(vllm, FREE_FIELDS, read_document)] == [
        "workers.engine"
    ]


def test_workers_are_told_of_the_engine(tmp_path: Path) -> None:
    workers = {"engine": "vllm", "engine_args": {"max_num_seqs": 8}, "quantization": "mxfp8"}
    executor = make_executor(load(tmp_path, **workers))
    assert isinstance(executor, InlineExecutor)
    spec: Any = executor._make_worker
    assert (spec.engine, spec.engine_args, spec.quantization) == ("vllm", {"max_num_seqs": 8}, "mxfp8")


def test_the_backends_are_known_without_loading_one() -> None:
    script = (
        "import sys; from evomerge.backends.registry import BACKENDS; print(*BACKENDS); "
        "sys.exit(any(name in sys.modules for name in ('vllm', 'transformers', 'torch')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == ["transformers", "lm_eval", "vllm"]
