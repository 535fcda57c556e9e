"""modelbake coreml finish: its words, exit codes and results, with stand-ins for Xcode and Apple's runtime."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.finish import bundle
from modelbake.manifest import BundleEntry
from tests.unit import tiny
from tests.unit.finish import standins
from tests.unit.finish.conftest import entry as entry
from tests.unit.finish.conftest import models as models
from tests.unit.finish.conftest import xcode as xcode
from tests.unit.finish.standins import NAME, StandInPredictor, turned
from tests.unit.oci import trust

# Where no server listens.
CLOSED = "localhost:1"


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


@dataclass
class StandInRegistry:
    """A registry on this machine that has the documents of `tags`, knows no other and takes nothing; it notes what it is asked."""

    host: str
    tags: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def registry() -> Iterator[StandInRegistry]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            data = found.tags.get(self.path.rpartition("/manifests/")[2])
            if self.path != "/v2/":
                found.asked.append((self.command, self.path))
            status = 200 if data is not None else 404 if self.command in ("GET", "HEAD") else 403
            self.send_response(status if self.path != "/v2/" else 200)
            self.send_header("content-type", "application/vnd.oci.image.manifest.v1+json")
            self.send_header("content-length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = StandInRegistry(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


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
    models: Path,
    entry: BundleEntry,
    predictor: StandInPredictor,
    registry: StandInRegistry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predictor.changes["CPU_AND_NE"] = turned(0.3)
    before = tiny.contents(models)
    assert finish(NAME, "--reports", str(tmp_path / "reports"), "--push", f"{registry.host}/m:1") == 6
    assert {method for method, _ in registry.asked} == {"GET"}
    assert tiny.contents(models) == before
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("FAIL") == 2
    for stem in ("Tiny", "Tiny_int8"):
        found = standins.report(tmp_path / "reports" / f"{stem}.json")
        assert [one.passed for one in found.units] == [True, True, False, True]


@pytest.mark.parametrize("tag", ["1.0.1", "1.0.1-modelpack"])
def test_a_tag_that_is_there_is_not_moved_and_nothing_is_run_for_it(
    models: Path,
    entry: BundleEntry,
    predictor: StandInPredictor,
    registry: StandInRegistry,
    tag: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registry.tags[tag] = b"{}"
    before = tiny.contents(models)
    assert finish(NAME, "--push", f"{registry.host}/m:1.0.1") == 2
    said = capsys.readouterr().err
    assert f"{registry.host}/m:{tag} is there already" in said
    assert "give another tag" in said
    assert tiny.contents(models) == before
    assert not predictor.calls
    assert {method for method, _ in registry.asked} == {"GET"}


def test_a_registry_that_does_not_answer_is_noticed_before_anything_runs(
    models: Path, entry: BundleEntry, predictor: StandInPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelbake.patience.LONGEST_WAIT", 0.0)
    assert finish(NAME, "--push", f"{CLOSED}/m:1") == 4
    assert finish(f"{CLOSED}/m:1", "--push", f"{CLOSED}/m:2") == 4
    assert not predictor.calls


@pytest.mark.parametrize("is_default", [True, False], ids=["of the environment", "given"])
def test_what_was_finished_and_cannot_be_sent_is_not_lost(
    models: Path,
    entry: BundleEntry,
    predictor: StandInPredictor,
    registry: StandInRegistry,
    is_default: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [] if is_default else ["--models-dir", str(models)]
    assert finish(NAME, "--push", f"{registry.host}/m:1", *given) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert "HTTP 403" in said.err
    words = " ".join(["modelbake push", NAME, f"{registry.host}/m:1", *given])
    assert said.err.endswith(f"\n{NAME} 1.0.1 is finished in {models}; send it with `{words}`.\n")
    assert manifest.read(models).bundle(NAME).version == "1.0.1"


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
        # The registries of these do not answer: nothing may be asked of them before.
        ([f"{CLOSED}/m:1", "--push", f"{CLOSED}/m:1"], 2),
        ([f"{CLOSED}/m", "--push", f"{CLOSED}/m:latest"], 2),
        ([f"{CLOSED}/m:latest", "--push", f"{CLOSED}/m"], 2),
        ([f"{CLOSED}/m:1@sha256:{'0' * 64}", "--push", f"{CLOSED}/m:1"], 2),
        ([f"{CLOSED}/m:1", "--version", "nonsense"], 2),
        ([f"{CLOSED}/m:1", "--version", "1.0"], 2),
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
