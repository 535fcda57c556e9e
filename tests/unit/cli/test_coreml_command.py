"""modelbake coreml finish: its words, exit codes and results, with stand-ins for Xcode and Apple's runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.finish import bundle, report
from modelbake.manifest import BundleEntry
from tests.unit import tiny
from tests.unit.finish.conftest import entry as entry
from tests.unit.finish.conftest import models as models
from tests.unit.finish.conftest import xcode as xcode
from tests.unit.finish.standins import NAME, StandInPredictor, turned
from tests.unit.oci import trust


@pytest.fixture
def predictor(
    xcode: Callable[[str], None], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StandInPredictor:
    """This machine is a Mac by stand-ins, and the environment names the test's folders."""
    found = StandInPredictor()
    find = bundle.find_mac
    monkeypatch.setattr(bundle, "find_mac", lambda: find(lambda: found))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELBAKE_MODELS", str(models))
    monkeypatch.setenv("MODELBAKE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    return found


def finish(*words: str) -> int:
    return run(["coreml", "finish", *words, "--runs", "1"])


def test_a_finished_bundle_is_told_of_and_its_figures_are_shown(
    models: Path, entry: BundleEntry, predictor: StandInPredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish(NAME, "--json") == 0
    said = capsys.readouterr()
    now = manifest.read(models).bundle(NAME)
    assert json.loads(said.out) == {
        "bundle": NAME,
        "version": "1.0.1",
        "digest": now.digest,
        "packages": [
            {
                "package": f"coreml/{stem}.mlpackage",
                "compiled": f"coreml/{stem}.mlmodelc",
                "report": f"coreml/reports/{stem}.json",
            }
            for stem in ("Tiny", "Tiny_int8")
        ],
    }
    assert f"WARNING: {NAME}: SAMPLE WEIGHTS" in said.err
    assert said.err.count("PASS") == 8


def test_a_missed_gate_is_exit_6_and_leaves_reports_where_they_were_asked_for(
    models: Path, entry: BundleEntry, predictor: StandInPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor.changes["CPU_AND_NE"] = turned(0.3)
    before = tiny.contents(models)
    assert finish(NAME, "--reports", str(tmp_path / "reports"), "--push", "localhost:1/never/asked:1") == 6
    assert tiny.contents(models) == before
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("FAIL") == 2
    for stem in ("Tiny", "Tiny_int8"):
        found = report.decode((tmp_path / "reports" / f"{stem}.json").read_bytes(), stem)
        assert [one.passed for one in found.units] == [True, True, False, True]


def test_this_machine_cannot_finish_and_says_so(
    models: Path, entry: BundleEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish(NAME, "--models-dir", str(models)) == 7
    said = capsys.readouterr().err
    assert said.startswith("error: This machine runs ")
    assert "docs/coreml-mac.md" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["no-such-bundle"], 3),
        ([NAME, "--unit", "GPU"], 2),
        ([NAME, "--runs", "0"], 2),
        ([NAME, "--version", "1.0"], 2),
        ([NAME, "--push", "Not/A/Name"], 2),
        ([NAME, "--push", f"localhost:5000/m@sha256:{'0' * 64}"], 2),
        ([NAME, "--require-signature", "key.pub"], 2),
        (["localhost:5000/models/m:1", "--push", "localhost:5000/models/m:1"], 2),
        ([], 2),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(
    models: Path, entry: BundleEntry, predictor: StandInPredictor, words: list[str], code: int
) -> None:
    before = tiny.contents(models)
    assert run(["coreml", "finish", *words]) == code
    assert tiny.contents(models) == before
    assert not predictor.calls


def test_a_reference_is_pulled_into_the_models_folder_first(
    models: Path, entry: BundleEntry, predictor: StandInPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pack", NAME, "--tag", f"{NAME}:1"]) == 0
    capsys.readouterr()
    elsewhere = tmp_path / "elsewhere"
    assert finish(f"store:{NAME}:1", "--models-dir", str(elsewhere), "--json") == 0
    result: Any = json.loads(capsys.readouterr().out)
    assert manifest.read(elsewhere).bundle(NAME).digest == result["digest"]
    assert manifest.read(models).bundle(NAME) == entry


def test_what_the_policy_does_not_trust_is_not_pulled(
    models: Path, entry: BundleEntry, predictor: StandInPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pack", NAME, "--tag", f"{NAME}:1"]) == 0
    (tmp_path / "key.pub").write_bytes(trust.key("ours").public.pem())
    elsewhere = tmp_path / "elsewhere"
    assert (
        finish(f"store:{NAME}:1", "--models-dir", str(elsewhere), "--require-signature", str(tmp_path / "key.pub")) == 8
    )
    assert not elsewhere.exists()
    assert not predictor.calls
