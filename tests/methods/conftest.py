"""Fixtures for the merge methods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evomerge.methods import _native


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both kinds of kernels for CPUs, in turn."""
    monkeypatch.setenv("EVOMERGE_NATIVE", "1" if request.param == "native" else "0")
    _native.compiled.cache_clear()
    yield request.param
    _native.compiled.cache_clear()
