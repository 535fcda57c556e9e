"""The pytest fixtures of the registry: `registry` runs, `proxy` stands before it, `client` has folders and runs modelbake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.client import Client
from tests.registry.proxy import FaultyProxy
from tests.registry.server import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry without authentication."""
    with Registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def proxy(registry: Registry) -> Iterator[FaultyProxy]:
    """A proxy before `registry`; the test fails if one of its handlers did."""
    with FaultyProxy(registry.port) as running:
        yield running


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Commands on folders of this test."""
    (tmp_path / "client").mkdir()
    return Client(tmp_path / "client")
