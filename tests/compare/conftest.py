"""Fixtures for the tests of compare."""

from types import SimpleNamespace

import pytest
from compare.children import Forked

import hiercnn.compare._runs as module


@pytest.fixture
def forked(monkeypatch) -> type[Forked]:
    """Processes of compare are forked from one that has imported torch; `started` lists those of this test."""
    monkeypatch.setattr(Forked, "started", [])
    monkeypatch.setattr(Forked, "most_at_once", 0)
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(Popen=Forked))
    return Forked
