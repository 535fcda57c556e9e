"""What the tests of the sources share: surroundings without settings, waits that take no time, a store, a web server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from modelbake import patience
from modelbake.bundle import HubSource
from modelbake.output import Output, out
from modelbake.sources.hub import Hub as HubClient
from tests.hub import Hub, Repo
from tests.unit.sources.support import CONFIG, FILE, REPOSITORY, WEIGHTS, Downloads, Web, make_settings


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither this machine's settings nor its caches are seen."""
    for name in list(os.environ):
        if name.startswith(("HF_", "PIP_", "MODELBAKE_", "WEIGHTS")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "client-cache"))
    yield
    vars(out).update(vars(Output()))


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited before tries; nothing waits."""
    seconds: list[float] = []

    def note(stop: threading.Event, wanted: float) -> None:
        seconds.append(wanted)

    monkeypatch.setattr(patience, "pause", note)
    return seconds


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "blobs")


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as running:
        yield running


@pytest.fixture
def repo(hub: Hub) -> Repo:
    """A repository like a small model's: one large file, small files, one of them empty, a folder."""
    files = {FILE: WEIGHTS, "config.json": CONFIG, "1_Pooling/config.json": b"{}", "empty.txt": b""}
    return hub.add_repo(REPOSITORY, files)


@pytest.fixture
def source(hub: Hub, repo: Repo, tmp_path: Path) -> HubClient:
    """That repository as a source, at its commit."""
    return HubClient(HubSource(REPOSITORY, repo.branches["main"]), make_settings(tmp_path, hub.endpoint), (FILE,))
