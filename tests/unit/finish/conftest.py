"""A machine that looks like a Mac to modelbake, by stand-ins."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from modelbake.finish.bundle import Mac, find_mac
from modelbake.manifest import BundleEntry
from tests.unit.finish import standins
from tests.unit.finish.standins import StandInPredictor


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def entry(models: Path) -> BundleEntry:
    return standins.bundle(models)


@pytest.fixture
def xcode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The programs' stand-ins are on PATH and the system is said to be macOS; called, it sets what xcrun does."""
    folder = tmp_path / "programs"
    standins.programs(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    # Work folders are looked into, so that nothing is left in them.
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return lambda mode: standins.programs(folder, mode)


@pytest.fixture
def predictor() -> StandInPredictor:
    return StandInPredictor()


@pytest.fixture
def mac(xcode: Callable[[str], None], predictor: StandInPredictor) -> Mac:
    return find_mac(lambda: predictor)
