"""modelbake coreml finish between real registries' tags: pulled from one, pushed as a new version to another. Stand-ins play the Mac."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.finish import bundle
from tests.registry.fixture import registry as registry
from tests.registry.server import Registry
from tests.unit.finish import standins
from tests.unit.finish.conftest import xcode as xcode
from tests.unit.finish.standins import NAME, StandInPredictor, turned


@pytest.fixture
def predictor(xcode: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInPredictor:
    found = StandInPredictor()
    find = bundle.find_mac
    monkeypatch.setattr(bundle, "find_mac", lambda: find(lambda: found))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    return found


def test_a_bundle_goes_from_tag_to_tag_by_way_of_a_mac(
    predictor: StandInPredictor, registry: Registry, tmp_path: Path
) -> None:
    linux, mac, app = tmp_path / "linux", tmp_path / "mac", tmp_path / "app"
    entry = standins.bundle(linux)
    given, wanted = f"{registry.host}/models/tiny:1.0.0", f"{registry.host}/models/tiny:1.0.1"
    assert run(["push", NAME, given, "--models-dir", str(linux)]) == 0
    assert run(["coreml", "finish", given, "--push", wanted, "--models-dir", str(mac), "--runs", "1"]) == 0
    assert run(["pull", wanted, "--to", str(app)]) == 0
    assert manifest.read(app).bundle(NAME) == manifest.read(mac).bundle(NAME)
    assert (app / "coreml/Tiny.mlmodelc/coremldata.bin").is_file()
    # What Linux verified is still what its tag leads to.
    assert run(["pull", given, "--to", str(tmp_path / "again")]) == 0
    assert manifest.read(tmp_path / "again").bundle(NAME) == entry


def test_a_tag_that_is_there_is_not_moved_and_a_new_repository_is_made(
    predictor: StandInPredictor, registry: Registry, tmp_path: Path
) -> None:
    models = ["--models-dir", str(tmp_path / "linux"), "--runs", "1"]
    standins.bundle(tmp_path / "linux")
    wanted = f"{registry.host}/models/tiny:1.0.1"
    # The registry knows no repository of that name.
    assert run(["coreml", "finish", NAME, "--push", wanted, *models]) == 0
    first = manifest.read(tmp_path / "linux").bundle(NAME)
    predictor.calls.clear()
    assert run(["coreml", "finish", NAME, "--push", wanted, *models]) == 2
    assert not predictor.calls
    assert run(["pull", wanted, "--to", str(tmp_path / "app")]) == 0
    assert manifest.read(tmp_path / "app").bundle(NAME) == first


def test_a_missed_gate_pushes_nothing(predictor: StandInPredictor, registry: Registry, tmp_path: Path) -> None:
    standins.bundle(tmp_path / "linux")
    given, wanted = f"{registry.host}/models/tiny:1.0.0", f"{registry.host}/models/tiny:1.0.1"
    assert run(["push", NAME, given, "--models-dir", str(tmp_path / "linux")]) == 0
    before = registry.blobs()
    predictor.changes["ALL"] = turned(0.5)
    words = ["--push", wanted, "--models-dir", str(tmp_path / "mac"), "--runs", "1"]
    assert run(["coreml", "finish", given, *words]) == 6
    assert registry.blobs() == before
    assert run(["pull", wanted, "--to", str(tmp_path / "app")]) == 3
