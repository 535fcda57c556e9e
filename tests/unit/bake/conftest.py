"""Fixtures of the bake's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.bake.stub import StubDocker


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubDocker:
    """A stub of docker that comes first on PATH."""
    stub = StubDocker(tmp_path / "stub")
    monkeypatch.setenv("PATH", f"{stub.bin}{os.pathsep}{os.environ['PATH']}")
    return stub
