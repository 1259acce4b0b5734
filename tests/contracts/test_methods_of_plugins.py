"""The contract suite of merge methods sees what plugins register, and what is wrong with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from support import ROOT

BROKEN = {
    "of_chunks": "test_chunks_cannot_change_a_bit",
    "shifted": "test_equal_models_give_themselves",
    "ordered": "test_models_may_change_places_where_it_says_so",
    "of_storage": "test_inputs_of_any_dtype_are_float32_to_it_and_the_result_is_rounded_once",
    "of_many": "test_empty_and_smallest_tensors_are_merged",
    "hides_nan": "test_a_result_is_finite_or_refused",
    "overwrites": "test_inputs_stay_as_they_are",
    "stale": "test_statistics_of_one_candidate_serve_the_next",
    "without_words": "test_it_has_an_example_and_says_what_it_does",
    "without_example": "test_it_has_an_example_and_says_what_it_does",
}


def test_a_method_of_a_plugin_is_held_to_the_contract() -> None:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", str(here / "test_methods.py"), "-p", "broken_methods"]
    command += ["-k", "plugin_", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    failed: dict[str, set[str]] = defaultdict(set)
    for test, method in re.findall(r"^FAILED .*::(\w+)\[.*plugin_(\w+)\]", done.stdout, flags=re.MULTILINE):
        failed[method].add(test)
    assert "error" not in done.stdout.splitlines()[-1], done.stdout[-3000:] + done.stderr[-3000:]
    assert failed.keys() == BROKEN.keys(), done.stdout[-3000:]
    assert all(test in failed[method] for method, test in BROKEN.items()), failed
