"""What the tests of the hub share: the hub, a quick and solitary real client, and waits that take no time."""

import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from tests.hub import Hub
from tests.hub.fixture import hub as hub

WEIGHTS = bytes(range(251)) * 40  # 10 040 bytes, no two neighbours equal


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """Seconds that the client meant to wait before its retries; it does not. Its cache is the test's own."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    return seconds


@pytest.fixture
def model(hub: Hub) -> str:
    """A repository like a small model: one LFS file, small files, folders."""
    hub.add_repo(
        "org/model",
        {"model.safetensors": WEIGHTS, "config.json": b'{"dim": 2}', "1_Pooling/config.json": b"{}", "empty.txt": b""},
    )
    return "org/model"


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)
