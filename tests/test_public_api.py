"""The public names are those that are meant to be; what a module lists is there and documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from cli_support import environment

import evomerge
from evomerge.backends.vllm_settings import vllm_is_installed

NAMES = sorted(m.name for m in pkgutil.walk_packages(evomerge.__path__, "evomerge."))


def listed(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", ()))


def undocumented(module: ModuleType) -> Iterator[str]:
    """Listed classes and functions, and public members of the classes, that say nothing about themselves."""
    for name in listed(module):
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing.__module__ != module.__name__:
            continue
        if not thing.__doc__:
            yield name
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            plain = value.fget if isinstance(value, property) else value
            plain = getattr(plain, "__func__", plain)
            if not member.startswith("_") and inspect.isfunction(plain) and not plain.__doc__:
                yield f"{name}.{member}"


def test_every_public_name_can_be_imported() -> None:
    code = "import evomerge\nfor n in evomerge.__all__: assert getattr(evomerge, n).__name__ == n, n"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def test_the_lists_of_public_names_agree() -> None:
    assert sorted(evomerge.__all__) == evomerge.__all__
    assert set(evomerge._HOMES) == set(evomerge.__all__)


def test_importing_evomerge_imports_nothing_else() -> None:
    code = "import sys, evomerge; print(sorted(m for m in sys.modules if m.startswith('evomerge')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['evomerge', 'evomerge.version']"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Recipes'"):
        _ = evomerge.Recipes


@pytest.mark.parametrize("name", NAMES)
def test_what_a_module_lists_exists_once_in_order_and_is_documented(name: str) -> None:
    if name.endswith(".triton_kernels"):
        pytest.importorskip("triton", reason="Triton is not installed (the extra `dev` has it on Linux)")
    if name.endswith(".vllm_worker") and not vllm_is_installed():
        pytest.skip("vLLM is not installed; see scripts/test-vllm")
    module = importlib.import_module(name)
    names = listed(module)
    assert [n for n in names if not hasattr(module, n)] == []
    assert len(names) == len(set(names))
    assert list(undocumented(module)) == []
